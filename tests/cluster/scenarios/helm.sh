# The chart, standalone and as a dependency: install, test, upgrade and rollback under load, uninstall.
# shellcheck shell=bash

image=(--set "image.repository=${BEARERD_IMAGE%:*}" --set "image.tag=${BEARERD_IMAGE##*:}")
values=deploy/helm/bearerd/examples/standalone.yaml
kubectl create secret generic bearerd --from-literal=client-secret=first --from-literal=caller-key=open-sesame --from-file=ca.pem="$WORK/ca.pem"
helm install tokens deploy/helm/bearerd --values "$values" "${image[@]}" --wait --timeout 120s
helm test tokens --logs
ok "installed, and helm test passes"

kubectl create deployment load --image=bearerd-cluster-test:1 --replicas=2 --dry-run=client --output=yaml |
  kubectl set env --local --filename - --output=yaml BILLING_URL=http://tokens-bearerd/billing HEADER=x-caller-key:open-sesame |
  kubectl apply --filename -
kubectl rollout status deployment/load --timeout=60s
sends 200
lossless 200

generation() { kubectl get deployment tokens-bearerd --output jsonpath='{.metadata.generation}'; }
helm upgrade tokens deploy/helm/bearerd --values "$values" "${image[@]}" --set podAnnotations.example=a --wait --timeout 180s
[ "$(generation)" = 2 ] || fail "no pod was replaced"
ok "upgraded with new pods"
sed 's#path_prefix = "/billing"#&\n  methods = ["GET", "POST"]#' "$values" > methods.yaml
helm upgrade tokens deploy/helm/bearerd --values methods.yaml "${image[@]}" --set podAnnotations.example=a --wait --timeout 180s
[ "$(generation)" = 2 ] || fail "a change of the routes alone replaced pods"
ok "routes were changed, and no pod was replaced"
sed 's/issuer = "corp"/issuer = "corpp"/' "$values" > broken.yaml
if helm upgrade tokens deploy/helm/bearerd --values broken.yaml "${image[@]}" --wait --timeout 60s > broken.log 2>&1; then fail "a broken config was taken"; fi
ok "a config with an error does not come through: $(grep -o 'corpp.*' broken.log | head -1)"
helm rollback tokens 1 --wait --timeout 180s
ok "rolled back"
servers summary | grep ' 0 lost' >/dev/null || fail "$(servers summary)"
lossless 1000

kubectl delete deployment load
kubectl create secret generic legacy-billing-credentials --from-literal=client-secret=first --from-file=ca.pem="$WORK/ca.pem"
helm dependency update deploy/helm/legacy-billing
helm install billing deploy/helm/legacy-billing --set "bearerd.image.repository=${BEARERD_IMAGE%:*}" --set "bearerd.image.tag=${BEARERD_IMAGE##*:}" --wait --timeout 120s
sends 100
lossless 1000

helm uninstall tokens billing --wait --timeout 120s
# Helm keeps what hooks made: the pod of `helm test`, and the Job that refused the broken config.
left() { ! kubectl get deployments,services,pods,poddisruptionbudgets,networkpolicies,jobs,configmaps,serviceaccounts --output name |
  grep -vE '/(kube-root-ca.crt|default|tokens-bearerd-(test|check).*)$'; }
eventually 60 "uninstalled, and nothing is left" left
