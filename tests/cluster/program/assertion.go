package main

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

const cluster = "https://kubernetes.default.svc"
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// The subject of a service account's token that the API server signed for this audience. Its keys come from its own
// OpenID discovery, as an issuer outside would read them.
func verifyAssertion(assertion, audience string) (string, error) {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return "", errors.New("not a JWT")
	}
	var header struct{ Kid, Alg string }
	var claims struct {
		Sub string
		Aud []string
		Exp int64
	}
	if err := errors.Join(decode(parts[0], &header), decode(parts[1], &claims)); err != nil {
		return "", err
	}
	key, err := clusterKey(header.Kid)
	if err != nil {
		return "", err
	}
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature); err != nil {
		return "", err
	}
	if !slices.Contains(claims.Aud, audience) {
		return "", fmt.Errorf("aud is %q and not %s", claims.Aud, audience)
	}
	if time.Now().Unix() >= claims.Exp {
		return "", errors.New("expired")
	}
	return claims.Sub, nil
}

func decode(part string, into any) error {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func clusterKey(id string) (*rsa.PublicKey, error) {
	var discovery struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := askCluster(cluster+"/.well-known/openid-configuration", &discovery); err != nil {
		return nil, err
	}
	// The document names the API server by its address or by a name outside; from here it has this one.
	path := discovery.JWKS[strings.Index(discovery.JWKS, "/openid/"):]
	var set struct{ Keys []struct{ Kid, N, E string } }
	if err := askCluster(cluster+path, &set); err != nil {
		return nil, err
	}
	for _, key := range set.Keys {
		if key.Kid == id {
			n, _ := base64.RawURLEncoding.DecodeString(key.N)
			e, _ := base64.RawURLEncoding.DecodeString(key.E)
			return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
		}
	}
	return nil, fmt.Errorf("the cluster has no key %s", id)
}

func askCluster(url string, into any) error {
	ca, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return err
	}
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	request, _ := http.NewRequest("GET", url, nil)
	request.Header.Set("authorization", "Bearer "+string(token))
	response, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != 200 {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}
