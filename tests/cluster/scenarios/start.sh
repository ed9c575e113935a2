# The application waits for bearerd, and bearerd for its first token; nothing restarts meanwhile.
# shellcheck shell=bash

servers 'set?up=false'
kubectl apply --kustomize deploy/kubernetes/base
waits_for_the_secret() { kubectl get events | grep 'secret "bearerd" not found' >/dev/null; }
eventually 60 "without the Secret, an event says so" waits_for_the_secret
printf first > corp.secret
kubectl create secret generic bearerd --from-file=client-secret=corp.secret
refused() { kubectl logs --selector "$APPLICATION" --container bearerd | grep '"status":503\|503' >/dev/null; }
eventually 180 "bearerd runs, and its log says that the issuer has no token" refused
sleep 10
for pod in $(kubectl get pods --output jsonpath='{.items[*].metadata.name}'); do
  status_is "$pod" .restartCount 0 || fail "$pod: bearerd was restarted"
done
[ -z "$(kubectl get pods --output jsonpath='{.items[*].status.containerStatuses[*].state.running}')" ] || fail "the application did not wait"
ok "the applications wait"
servers 'set?up=true'
kubectl rollout status deployment/legacy-billing --timeout=90s
sends 100
lossless 100
