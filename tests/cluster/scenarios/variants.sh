# The overlays that change how bearerd is probed and where it listens, and an application that does not wait.
# shellcheck shell=bash

install_base
sends 50
for overlay in exec-probes private-ca dual-stack; do
  if [ "$overlay" = dual-stack ] && [ ! -e /proc/net/if_inet6 ]; then
    ok "skipped: dual-stack, without IPv6 here"
    continue
  fi
  kubectl apply --kustomize "deploy/kubernetes/overlays/$overlay"
  # Only new pods are sure to have the new ConfigMap already.
  kubectl rollout restart deployment/legacy-billing
  kubectl rollout status deployment/legacy-billing --timeout=120s
  eventually 60 "$overlay: new pods are there, and the old ones have ended" only 2
  case "$overlay" in
    exec-probes) ! in_each_pod bearerd_build_info 2>/dev/null || fail "exec-probes: the admin address is open" ;;
    *) in_each_pod bearerd_build_info >/dev/null || fail "$overlay: the admin address is not open" ;;
  esac
done
sends 400
lossless 400

servers 'set?up=false'
variant hasty '  - target: { kind: Deployment }
    patch: |
      - op: replace
        path: /spec/template/spec/initContainers/0/startupProbe/httpGet/path
        value: /livez'
runs() { kubectl get pod "$(pod_of hasty)" --output jsonpath='{.status.containerStatuses[0].state.running.startedAt}' | grep .; }
eventually 60 "with /livez as startup probe, the application starts without a token" runs
ready() { kubectl get pod "$(pod_of hasty)" --output jsonpath='{.status.conditions[?(@.type=="Ready")].status}' | grep -x True; }
! ready || fail "the pod is ready without a token"
servers 'set?up=true'
eventually 90 "and the pod is ready with the first token" ready
