package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Each namespace under test has an issuer and an API of its own: the first segment of the path is its name.
type namespace struct {
	sync.Mutex
	secrets  []string       // any of them is a valid client secret
	lifetime int            // of tokens, in seconds
	up       bool           // the issuer responds; otherwise 503
	tokens   map[string]int // "CREDENTIAL ADDRESS" -> tokens issued
	pods     map[string]report
	refused  int // requests to the API without a valid token
}

// What an application says of itself, again and again.
type report struct {
	Requests, Lost int
	Errors         []string
	Ended          bool
}

type state struct {
	sync.Mutex
	namespaces map[string]*namespace
	key        []byte
}

func (s *state) namespace(path string) (*namespace, string) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	s.Lock()
	defer s.Unlock()
	if s.namespaces[name] == nil {
		s.namespaces[name] = &namespace{secrets: []string{"first"}, lifetime: 300, up: true, tokens: map[string]int{}, pods: map[string]report{}}
	}
	return s.namespaces[name], rest
}

// Issuer and API by TLS on 8443; what the tests set and read, and /healthz, on 8081.
func servers() error {
	s := &state{namespaces: map[string]*namespace{}, key: make([]byte, 32)}
	rand.Read(s.key)
	end := make(chan error)
	go func() { end <- http.ListenAndServe(":8081", http.HandlerFunc(s.control)) }()
	go func() {
		end <- http.ListenAndServeTLS(":8443", "/tls/tls.crt", "/tls/tls.key", http.HandlerFunc(s.public))
	}()
	return <-end
}

func (s *state) public(w http.ResponseWriter, r *http.Request) {
	n, rest := s.namespace(r.URL.Path)
	issuer := "https://" + r.Host + strings.TrimSuffix(r.URL.Path, "/"+rest)
	switch {
	case rest == ".well-known/openid-configuration":
		respond(w, 200, map[string]any{"issuer": issuer, "token_endpoint": issuer + "/token", "jwks_uri": issuer + "/jwks",
			"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "private_key_jwt"}})
	case rest == "token":
		s.token(w, r, n, issuer)
	case strings.HasPrefix(rest, "api/v2/"):
		s.api(w, r, n)
	default:
		http.NotFound(w, r)
	}
}

func (s *state) token(w http.ResponseWriter, r *http.Request, n *namespace, issuer string) {
	n.Lock()
	secrets, lifetime, up := n.secrets, n.lifetime, n.up
	n.Unlock()
	if !up {
		respond(w, 503, map[string]string{"error": "temporarily_unavailable"})
		return
	}
	_, credential, _ := r.BasicAuth()
	if assertion := r.FormValue("client_assertion"); assertion != "" {
		subject, err := verifyAssertion(assertion, issuer)
		if err != nil {
			respond(w, 401, map[string]string{"error": "invalid_client", "error_description": err.Error()})
			return
		}
		credential = subject
	} else if !slices.Contains(secrets, credential) {
		respond(w, 401, map[string]string{"error": "invalid_client"})
		return
	}
	address, _, _ := net.SplitHostPort(r.RemoteAddr)
	n.Lock()
	n.tokens[credential+" "+address]++
	n.Unlock()
	// To the millisecond: rounded down to seconds, a token would end before the time that `expires_in` promises.
	expires := strconv.FormatInt(time.Now().Add(time.Duration(lifetime)*time.Second).UnixMilli(), 10)
	respond(w, 200, map[string]any{"access_token": expires + "." + s.sign(expires), "token_type": "Bearer", "expires_in": lifetime})
}

func (s *state) sign(text string) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// 200 for a valid token alone. With `chunks`, the response takes a tenth of a second for each KiB.
func (s *state) api(w http.ResponseWriter, r *http.Request, n *namespace) {
	io.Copy(io.Discard, r.Body)
	expires, signature, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("authorization"), "Bearer "), ".")
	until, _ := strconv.ParseInt(expires, 10, 64)
	if signature != s.sign(expires) || time.Now().UnixMilli() >= until {
		n.Lock()
		n.refused++
		n.Unlock()
		respond(w, 401, map[string]string{"error": "invalid_token"})
		return
	}
	chunks, _ := strconv.Atoi(r.URL.Query().Get("chunks"))
	for range max(chunks, 1) {
		io.WriteString(w, strings.Repeat("x", 1023)+"\n")
		if chunks > 0 {
			w.(http.Flusher).Flush()
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func respond(w http.ResponseWriter, status int, body any) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

// /NAMESPACE/set?secrets=a,b&lifetime=20&up=false, /NAMESPACE/tokens, /NAMESPACE/summary; applications POST /NAMESPACE/report.
func (s *state) control(w http.ResponseWriter, r *http.Request) {
	n, rest := s.namespace(r.URL.Path)
	n.Lock()
	defer n.Unlock()
	query := r.URL.Query()
	switch rest {
	case "set":
		if query.Has("secrets") {
			n.secrets = strings.Split(query.Get("secrets"), ",")
		}
		if query.Has("lifetime") {
			n.lifetime, _ = strconv.Atoi(query.Get("lifetime"))
		}
		if query.Has("up") {
			n.up = query.Get("up") == "true"
		}
	case "tokens":
		for _, who := range slices.Sorted(maps.Keys(n.tokens)) {
			fmt.Fprintln(w, who, n.tokens[who])
		}
	case "report":
		var said report
		json.NewDecoder(r.Body).Decode(&said)
		n.pods[query.Get("pod")] = said
	case "summary":
		n.summary(w)
	}
}

// One line that tests read, and what went wrong below it.
func (n *namespace) summary(w io.Writer) {
	var requests, lost, running, ended int
	var errors []string
	for pod, said := range n.pods {
		requests += said.Requests
		lost += said.Lost
		if said.Ended {
			ended++
		} else {
			running++
		}
		for _, message := range said.Errors {
			errors = append(errors, pod+": "+message)
		}
	}
	fmt.Fprintf(w, "%d requests, %d lost, %d pods running, %d pods ended, %d tokens refused\n", requests, lost, running, ended, n.refused)
	for _, message := range errors {
		fmt.Fprintln(w, message)
	}
}
