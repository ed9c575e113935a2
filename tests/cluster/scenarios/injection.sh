# bearerd in pods by a label on their namespace: Deployment, Job and CronJob, in a namespace that enforces "restricted".
# shellcheck shell=bash

if ! kubectl api-resources --api-group=admissionregistration.k8s.io --no-headers | grep '/v1 .*MutatingAdmissionPolicy$' >/dev/null; then
  ok "skipped: this API server has no MutatingAdmissionPolicy of v1 (Kubernetes 1.36)"
  return
fi
# The policies are the cluster's, and those that were there before stay as they are.
policies=$REPOSITORY/deploy/kubernetes/injection
if kubectl get mutatingadmissionpolicy bearerd-inject >/dev/null 2>&1; then
  ok "bearerd-inject is in the cluster already"
else
  trap 'explain_failure $?; kubectl delete --kustomize "$policies" --wait=false' EXIT
  kubectl apply --kustomize "$policies"
fi

kubectl label namespace "$NAMESPACE" bearerd.io/inject=enabled pod-security.kubernetes.io/enforce=restricted
sed -n '/^\[issuer/,$p' deploy/kubernetes/base/bearerd.toml | sed 's#"ca.pem"#"/run/secrets/bearerd/ca.pem"#' > routes.toml
kubectl create secret generic bearerd --from-file=routes.toml --from-literal=client-secret=first --from-file="$WORK/ca.pem"
cat > kustomization.yaml <<YAML
resources:
  - deploy/kubernetes/base/application.yaml
  - deploy/kubernetes/overlays/job/jobs.yaml
# For the pods as well. The image is the one under test, not the default of the policy.
commonAnnotations: { bearerd.io/image: "$BEARERD_IMAGE" }
YAML
pod=(kubectl run pod --image=bearerd-cluster-test:1 --dry-run=server --output=jsonpath='{.spec.initContainers[*].name}'
  --overrides='{ "spec": { "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } }, "containers": [{ "name": "pod", "image":
    "bearerd-cluster-test:1", "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }] } }')
injected() { [ "$("${pod[@]}" "$@")" = bearerd ]; }
eventually 60 "a new pod gets bearerd" injected
! injected --labels bearerd.io/inject=disabled || fail "a pod that does not want bearerd has it"

kubectl apply --kustomize .
kubectl rollout status deployment/legacy-billing --timeout=120s
kubectl wait --for=condition=complete job/invoices-import --timeout=120s
kubectl create job nightly --from=cronjob/invoices-nightly
kubectl wait --for=condition=complete job/nightly --timeout=120s
sends 100
kubectl rollout restart deployment/legacy-billing
kubectl rollout status deployment/legacy-billing --timeout=120s
eventually 60 "the old pods have ended" only 2
[ -z "$(kubectl get deployment legacy-billing --output jsonpath='{.spec.template.spec.initContainers}')" ] || fail "the Deployment was changed"
for running in $(kubectl get pods --output jsonpath='{.items[*].metadata.name}'); do
  [ "$(kubectl get pod "$running" --output jsonpath='{.spec.initContainers[*].image}')" = "$BEARERD_IMAGE" ] || fail "$running has not the image of its annotation"
done
lossless 100
ok "a Deployment, a Job and a CronJob have bearerd, and their manifests do not"

kubectl label namespace "$NAMESPACE" pod-security.kubernetes.io/enforce=privileged --overwrite
if kubectl run host --image=bearerd-cluster-test:1 --overrides='{ "spec": { "hostNetwork": true } }' 2> refused; then fail "a pod with hostNetwork was taken"; fi
grep hostNetwork refused >/dev/null || fail "$(cat refused)"
ok "hostNetwork: $(grep -o 'bearerd cannot.*' refused)"
