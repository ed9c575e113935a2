# No Secret: the API server is the OpenID issuer of the assertion, and the test's issuer verifies it by the API server's keys.
# shellcheck shell=bash

servers 'set?lifetime=10'
kubectl apply --kustomize deploy/kubernetes/overlays/workload-identity
kubectl rollout status deployment/legacy-billing --timeout=120s
by_identity() { [ "$(servers tokens | grep -c "^system:serviceaccount:$NAMESPACE:legacy-billing ")" -ge 2 ]; }
eventually 30 "both pods got tokens as their service account" by_identity
sends 500
[ -z "$(kubectl get secrets --output name)" ] || fail "there is a Secret"
lossless 500
