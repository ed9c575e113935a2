# Five pods share one token by a store. The store is deleted, comes back empty, and is gone for good, while applications send
# requests; the issuer's tokens are short, so that each of these meets renewals.
# shellcheck shell=bash

# Its image is on the nodes, and the overlay's is not.
sed -i 's#image: valkey/.*#image: bearerd-cluster-test-store:1#' deploy/kubernetes/overlays/shared-tokens/valkey.yaml
openssl rand -base64 32 > store.key
printf first > corp.secret
kubectl create secret generic bearerd --from-file=client-secret=corp.secret --from-file=store.key

# All of them start together, and the store is there already.
sed -i 's/^resources:/replicas: [{ name: legacy-billing, count: 5 }]\nresources:/' deploy/kubernetes/overlays/shared-tokens/kustomization.yaml
kubectl apply --filename deploy/kubernetes/overlays/shared-tokens/valkey.yaml
kubectl rollout status deployment/valkey --timeout=120s
kubectl apply --kustomize deploy/kubernetes/overlays/shared-tokens
kubectl rollout status deployment/legacy-billing --timeout=120s
issued() { servers tokens | awk '{ n += $3 } END { print n + 0 }'; }
[ "$(issued)" = 1 ] || fail "five pods made $(issued) token requests"
ok "five pods made one token request"
sends 100

servers 'set?lifetime=10'
# The token with the long life goes, for all, and each further one lives for ten seconds. The store goes first, or new pods would
# find the token in it.
kubectl rollout restart deployment/valkey
kubectl rollout status deployment/valkey --timeout=120s
one_store() { [ "$(kubectl get pods --selector app.kubernetes.io/name=valkey --output name | wc -l)" = 1 ]; }
eventually 60 "the old store has ended" one_store
kubectl rollout restart deployment/legacy-billing
kubectl rollout status deployment/legacy-billing --timeout=120s
eventually 60 "the old pods have ended" only 5

# Without a store, five pods make about 19 in 30 s.
shares() {
  local before renewed
  before=$(issued)
  sleep 30
  renewed=$(($(issued) - before))
  if [ "$renewed" -lt 2 ] || [ "$renewed" -gt 6 ]; then fail "five pods made $renewed token requests in 30 s, with tokens of 10 s"; fi
  ok "five pods made $renewed token requests in 30 s, with tokens of 10 s"
}
# remember WHAT; grown WHAT BY: what each pod has counted since then.
count() { metric "$1" bearerd_ | awk -v what="$2" '$1 ~ what { n += $2 } END { print n + 0 }'; }
remember() { for pod in $(pods); do echo "$pod $(count "$pod" "$1")"; done > counted; }
grown() {
  local pod before
  while read -r pod before; do [ "$(count "$pod" "$1")" -ge $((before + $2)) ] || return 1; done < counted
}
used='^bearerd_store_operations_total.*"claim",outcome="(hit|lease)"'
requested='^bearerd_token_requests_total.*outcome="ok"'

shares
lossless 200

kubectl delete pod --selector app.kubernetes.io/name=valkey
kubectl rollout status deployment/valkey --timeout=120s
remember "$used"
eventually 60 "after the store came back empty, each pod uses it" grown "$used" 1
shares
lossless 400

kubectl scale deployment/valkey --replicas=0
alone() { in_each_pod 'bearerd_store_up 0'; }
eventually 60 "without the store, each pod knows it" alone
remember "$requested"
eventually 60 "without the store, each pod renews a token of its own" grown "$requested" 2
for pod in $(pods); do
  status_is "$pod" .restartCount 0 || fail "bearerd of $pod was restarted"
  status_is "$pod" .ready true || fail "bearerd of $pod is not ready without a store"
done
lossless 800
servers summary | head -1 | grep ' 0 tokens refused' || fail "a token was refused: $(servers summary)"
