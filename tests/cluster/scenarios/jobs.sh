# A Job and a CronJob complete, although bearerd runs beside them; in a namespace that enforces "restricted".
# shellcheck shell=bash

kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=restricted
kubectl create secret generic bearerd --from-literal=client-secret=first
eval "$(commands docs/tutorial-kubernetes.md Jobs)"
kubectl create job nightly --from=cronjob/invoices-nightly
kubectl wait --for=condition=complete job/nightly --timeout=120s
for job in invoices-import nightly; do
  kubectl logs "job/$job" --container import | grep '20 responses' >/dev/null || fail "$job: $(kubectl logs "job/$job" --container import)"
  pod=$(kubectl get pods --selector "batch.kubernetes.io/job-name=$job" --output jsonpath='{.items[*].metadata.name}')
  [ "$(kubectl get pod "$pod" --output jsonpath='{.status.phase}')" = Succeeded ] || fail "$pod has not succeeded"
  [ "$(bearerd_status "$pod" .state.terminated.exitCode)" = 0 ] || fail "$pod: bearerd did not end well"
done
ok "a Job and a CronJob got 20 responses each, and their pods have ended"
