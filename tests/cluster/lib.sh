# What the scenarios share. A scenario's folder has a copy of deploy/ that names the issuer, the API and the images of the tests;
# $KUBECONFIG points at its namespace.
# shellcheck shell=bash

namespace_of() { if [ "$1" = servers ]; then echo cluster-test; else echo "cluster-test-$1"; fi; }

# The issuer and the API, with a CA of their own.
start_servers() {
  local names=DNS:issuer.cluster-test.svc.cluster.local,DNS:api.cluster-test.svc.cluster.local
  cd "$WORK"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=CA of the tests" \
    -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem 2>/dev/null
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=servers -keyout tls.key -out tls.csr 2>/dev/null
  openssl x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -days 2 -extfile <(echo "subjectAltName=$names") -out tls.crt 2>/dev/null
  enter servers
  kubectl create secret tls tls --cert=tls.crt --key=tls.key
  kubectl apply --filename "$REPOSITORY/tests/cluster/servers.yaml"
  kubectl rollout status deployment/servers --timeout=120s
  cd "$REPOSITORY/tests/cluster"
}

# A new namespace, and kubectl in it alone.
enter() {
  local config=$WORK/$1.kubeconfig
  kubectl config view --raw --flatten --minify > "$config"
  export KUBECONFIG=$config NAMESPACE
  NAMESPACE=$(namespace_of "$1")
  kubectl create namespace "$NAMESPACE"
  kubectl config set-context --current --namespace="$NAMESPACE" >/dev/null
}

scenario() {
  set -euo pipefail
  local name=$1 begun=$SECONDS
  trap 'explain_failure $?' EXIT
  enter "$name" >/dev/null
  mkdir "$WORK/$name"
  cd "$WORK/$name"
  fill "$REPOSITORY/deploy"
  # shellcheck source=/dev/null
  . "$REPOSITORY/tests/cluster/scenarios/$name.sh"
  ok "done in $((SECONDS - begun)) s"
  [ -n "${KEEP:-}" ] || kubectl delete namespace "$NAMESPACE" --wait=false
}

# What a user fills in: the issuer and the API with their CA, and the images.
fill() {
  local host=cluster-test.svc.cluster.local folder
  cp -r "$1" deploy
  grep -rlE 'example\.com|example/|bearerd:[0-9]' deploy | while read -r file; do
    local ca=ca.pem
    case "$file" in deploy/helm/*) ca=/run/secrets/bearerd/ca.pem ;; esac
    sed -i -E "/^ *tls = \{ ca = /d
      s#^( *)(issuer_url|upstream) = .*#&\n\1tls = { ca = { file = \"$ca\" } }#
      s#https://idp\.example\.com#https://issuer.$host/$NAMESPACE#
      s#https://billing\.example\.com#https://api.$host/$NAMESPACE#
      s#image: bearerd:[0-9.]+#image: $BEARERD_IMAGE#
      s#example/[a-z-]+:[0-9.]+#bearerd-cluster-test:1#" "$file"
  done
  find deploy/kubernetes -name bearerd.toml | while read -r file; do
    folder=$(dirname "$file")
    cp "$WORK/ca.pem" "$folder"
    grep -q ca.pem "$folder/kustomization.yaml" || sed -i 's/^\( *\)- bearerd.toml$/&\n\1- ca.pem/' "$folder/kustomization.yaml"
    printf 'images: [{ name: bearerd, newName: %s, newTag: %s }]\n' "${BEARERD_IMAGE%:*}" "${BEARERD_IMAGE##*:}" >> "$folder/kustomization.yaml"
  done
}

# The commands of a page's section, as the page has them.
commands() { # PAGE HEADING
  awk -v heading="## $2" '/^## / { inside = ($0 == heading) } /^```/ { shell = (inside && $0 == "```sh"); next } shell' "$REPOSITORY/$1"
}

ok() { echo "ok    $*"; }
fail() {
  echo "FAIL  $*"
  exit 1
}

# eventually SECONDS WHAT COMMAND…: says how long it took.
eventually() {
  local begun=$SECONDS seconds=$1 what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $((SECONDS - begun)) -lt "$seconds" ] || fail "not within $seconds s: $what"
    sleep 0.5
  done
  ok "$what (after $((SECONDS - begun)) s)"
}

servers() { kubectl get --raw "/api/v1/namespaces/cluster-test/services/http:control:8081/proxy/$NAMESPACE/$1"; }

# lossless COUNT: at least so many requests were sent since the beginning, and each got its 200. Pods that are no longer there
# said goodbye.
lossless() {
  local summary requests lost running
  summary=$(servers summary)
  read -r requests _ lost _ running _ <<< "$summary"
  if [ "$lost" != 0 ] || [ "$requests" -lt "$1" ]; then fail "of at least $1 requests, none may be lost: $summary"; fi
  [ "$running" -le "$(kubectl get pods --output name | wc -l)" ] || fail "a pod ended before its last requests: $summary"
  ok "$(head -1 <<< "$summary")"
}
sent() { # COUNT
  local requests
  read -r requests _ < <(servers summary)
  [ "$requests" -ge "$1" ]
}
# sends COUNT: applications send so many requests from now on.
sends() {
  local requests
  read -r requests _ < <(servers summary)
  eventually 60 "$1 requests are sent" sent $((requests + $1))
}

export APPLICATION=app.kubernetes.io/name=legacy-billing
pods() { kubectl get pods --selector "$APPLICATION" --field-selector status.phase=Running --output jsonpath='{.items[*].metadata.name}'; }
metric() { kubectl get --raw "/api/v1/namespaces/$NAMESPACE/pods/$1:9180/proxy/metrics" | grep -F "$2"; }
# The application has so many pods, and those that they have replaced are gone.
only() { [ "$(kubectl get pods --selector "$APPLICATION" --output name | wc -l)" = "$1" ]; } # COUNT
in_each_pod() { # METRIC
  local pod
  for pod in $(pods); do metric "$pod" "$1" || return 1; done
}
bearerd_status() { kubectl get pod "$1" --output jsonpath="{.status.initContainerStatuses[?(@.name=='bearerd')]$2}"; }
status_is() { [ "$(bearerd_status "$1" "$2")" = "$3" ]; }

# The application of the base, with its Secret.
install_base() {
  printf first > corp.secret
  kubectl create secret generic bearerd --from-file=client-secret=corp.secret
  kubectl apply --kustomize deploy/kubernetes/base
  kubectl rollout status deployment/legacy-billing --timeout=120s
}

# variant NAME PATCHES: the base once more, with one pod, under another name and with these patches.
variant() {
  mkdir "$1"
  cat > "$1/kustomization.yaml" <<YAML
resources: [../deploy/kubernetes/base]
nameSuffix: -$1
labels: [{ pairs: { variant: $1 }, includeSelectors: true }]
replicas: [{ name: legacy-billing, count: 1 }]
patches:
$2
YAML
  kubectl apply --kustomize "$1"
}
pod_of() { kubectl get pods --selector "variant=$1" --output jsonpath='{.items[0].metadata.name}'; }

explain_failure() { # STATUS
  [ "$1" != 0 ] || return
  echo "-- what is there"
  kubectl get pods --output wide || true
  kubectl get events --sort-by=.lastTimestamp 2>/dev/null | tail -15
  servers summary || true
  kubectl logs --selector "$APPLICATION" --container bearerd --tail 5 --prefix || true
}
