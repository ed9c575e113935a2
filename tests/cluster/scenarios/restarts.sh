# bearerd crashes, and bearerd hangs: the kubelet starts it again, and the application stays.
# shellcheck shell=bash

kubectl create secret generic bearerd --from-literal=client-secret=first
cat >> deploy/kubernetes/base/kustomization.yaml <<'YAML'
replicas: [{ name: legacy-billing, count: 1 }]
patches:
  # The application sees the processes of the pod, and may send signals to those of its own user.
  - patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: { name: legacy-billing }
      spec:
        template:
          spec:
            shareProcessNamespace: true
            containers: [{ name: app, securityContext: { runAsUser: 65532 } }]
YAML
kubectl apply --kustomize deploy/kubernetes/base
kubectl rollout status deployment/legacy-billing --timeout=120s
pod=$(pods)
sends 20
lossless 20

again() { status_is "$pod" .restartCount "$1" && status_is "$pod" .ready true; }
kubectl exec "$pod" --container app -- /program signal KILL bearerd
eventually 60 "bearerd is there again after a crash" again 1
kubectl exec "$pod" --container app -- /program signal STOP bearerd
unready() { kubectl get pod "$pod" --output jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep False >/dev/null; }
eventually 60 "a pod whose bearerd hangs is not ready" unready
eventually 240 "a bearerd that hung is there again" again 2
[ "$(kubectl get pod "$pod" --output jsonpath='{.status.containerStatuses[0].restartCount}')" = 0 ] || fail "the application was restarted"
read -r _ _ lost _ < <(servers summary)
sends 300
read -r _ _ lost_now _ < <(servers summary)
[ "$lost_now" = "$lost" ] || fail "requests were lost after the last restart: $(servers summary)"
ok "$(servers summary | head -1): those of the time without bearerd"
