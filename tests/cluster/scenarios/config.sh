# The ConfigMap changes under load: a good config, one with an error, the good one again.
# shellcheck shell=bash

install_base
cd deploy/kubernetes/base || exit
before=$(pods)
cat >> bearerd.toml <<'TOML'

[[route]]
name = "second"
path_prefix = "/second"
anonymous = true
upstream = "https://example.org"
TOML
kubectl apply --kustomize .
eventually 180 "a new route is in force" in_each_pod 'route="second"'

cp bearerd.toml good.toml
sed -i 's/^issuer = "corp"/issuer = "corpp"/' bearerd.toml
kubectl apply --kustomize .
eventually 180 "an error is reported, and the old config stays" in_each_pod 'bearerd_config_last_reload_successful 0'
for pod in $before; do
  kubectl logs "$pod" --container bearerd | grep 'bearerd.toml:.*corpp' >/dev/null || fail "the log of $pod does not say what is wrong"
done

kubectl rollout restart deployment/legacy-billing
shown() { kubectl describe pods | grep -A 8 'Last State' | grep 'bearerd.toml:.*corpp' >/dev/null; }
eventually 90 "a new pod cannot start, and its description says why" shown
kubectl get pods --output jsonpath='{.items[*].status.initContainerStatuses[*].lastState.terminated.exitCode}' | grep -w 78 >/dev/null || fail "the exit code is not 78"
kubectl rollout undo deployment/legacy-billing
cp good.toml bearerd.toml
kubectl apply --kustomize .
eventually 180 "the good config is in force again" in_each_pod 'bearerd_config_last_reload_successful 1'
[ "$(pods)" = "$before" ] || fail "pods were replaced: $before, now $(pods)"
for pod in $before; do status_is "$pod" .restartCount 0 || fail "bearerd of $pod was restarted"; done
lossless 5000
