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
eventually 30 "the application sends requests" sent 20
lossless 20

again() { status_is "$pod" .restartCount "$1" && status_is "$pod" .ready true; }
kubectl exec "$pod" --container app -- /program signal KILL bearerd
eventually 60 "bearerd is there again after a crash" again 1
kubectl exec "$pod" --container app -- /program signal STOP bearerd
unready() { kubectl get pod "$pod" --output jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep -q False; }
eventually 60 "a pod whose bearerd hangs is not ready" unready
eventually 240 "a bearerd that hung is there again" again 2
[ "$(kubectl get pod "$pod" --output jsonpath='{.status.containerStatuses[0].restartCount}')" = 0 ] || fail "the application was restarted"
lost() { servers summary | awk '{ print $3 }'; }
sent_so_far=$(servers summary | awk '{ print $1 }') lost_so_far=$(lost)
eventually 60 "requests are sent again" sent $((sent_so_far + 300))
[ "$(lost)" = "$lost_so_far" ] || fail "requests were lost after the last restart: $(servers summary)"
ok "$(servers summary | head -1), all of those while bearerd was away"
