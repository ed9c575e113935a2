{{- define "bearerd.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "bearerd.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := include "bearerd.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bearerd.selectorLabels" -}}
app.kubernetes.io/name: {{ include "bearerd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bearerd.chartLabels" -}}
{{ include "bearerd.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "bearerd.labels" -}}
{{ toYaml (merge (fromYaml (include "bearerd.chartLabels" .)) .Values.extraLabels) }}
{{- end }}

{{- define "bearerd.podLabels" -}}
{{ toYaml (merge (fromYaml (include "bearerd.chartLabels" .)) .Values.podLabels .Values.extraLabels) }}
{{- end }}

{{/* `annotations:` with `own` and with those for everything; nothing where there are none. */}}
{{- define "bearerd.annotations" -}}
{{- with merge (dict) (default (dict) .own) .context.Values.extraAnnotations -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "bearerd.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{/* Never just `bearerd`, which is the ConfigMap of the kustomize component. */}}
{{- define "bearerd.configMapName" -}}
{{- default (printf "%s-config" (include "bearerd.fullname" .)) .Values.existingConfigMap }}
{{- end }}

{{/* Empty where the release makes the injection alone, and no config. */}}
{{- define "bearerd.hasConfig" -}}
{{- if or .Values.routes (not .Values.injection.enabled) (eq .Values.mode "standalone") }}true{{ end }}
{{- end }}

{{/* What a schema cannot say in plain words. */}}
{{- define "bearerd.validate" -}}
{{- $v := .Values }}
{{- if and (include "bearerd.hasConfig" .) (not $v.existingConfigMap) (not (trim $v.routes)) }}
{{- fail "bearerd: `routes` is empty: write issuers and routes there as TOML, or name an `existingConfigMap`" }}
{{- end }}
{{- range $key := list "routes" "settings" }}
{{- with (fromToml (default "" (index $v $key))).Error }}
{{- fail (printf "bearerd: `%s` is not TOML: %s" $key .) }}
{{- end }}
{{- end }}
{{- $settings := fromToml (default "" $v.settings) }}
{{- $other := dict "admin" "`admin`, `ipv6` and `probes`" "include" "`routes`" "drain_delay" "`drainDelaySeconds`" "shutdown_timeout" "`shutdownTimeoutSeconds`" }}
{{- range $key, $value := $other }}
{{- if hasKey $settings $key }}
{{- fail (printf "bearerd: `settings` has `%s`, which the chart makes from %s" $key $value) }}
{{- end }}
{{- end }}
{{- if and (hasKey $settings "store") (include "bearerd.hasStore" .) }}
{{- fail "bearerd: `settings` has `[store]`, which the chart makes from `store`" }}
{{- end }}
{{- if include "bearerd.hasStore" . }}
{{- if $v.existingConfigMap }}
{{- fail "bearerd: `store.url` and `store.urls` are for the config made here: write `[store]` into `existingConfigMap`" }}
{{- end }}
{{- if not (include "bearerd.hasConfig" .) }}
{{- fail "bearerd: `store` is for the config made here, and there are no `routes`: for injected pods, write `[store]` into `settings`" }}
{{- end }}
{{- if and $v.store.url $v.store.urls }}
{{- fail "bearerd: give `store.url` or `store.urls`, not both" }}
{{- end }}
{{- if not $v.store.secretName }}
{{- fail "bearerd: `store.secretName` is empty: name a Secret with a key to encrypt tokens (`openssl rand -base64 32`)" }}
{{- end }}
{{- end }}
{{- range $name := list "main" "main6" }}
{{- if hasKey (default (dict) $settings.listener) $name }}
{{- fail (printf "bearerd: `settings` has `[listener.%s]`, which the chart makes from `listener` and `ipv6`" $name) }}
{{- end }}
{{- end }}
{{- if and (eq $v.probes.startup "process") (eq $v.probes.type "exec") }}
{{- fail "bearerd: `probes.startup: process` asks /livez, which `probes.type: exec` cannot: set `probes.type` to \"http\", or `required = false` on the issuers" }}
{{- end }}
{{- if and $v.serviceAccountToken.enabled (not $v.serviceAccountToken.audience) }}
{{- fail "bearerd: `serviceAccountToken.audience` is empty: give what the issuer wants in `aud`" }}
{{- end }}
{{- if $v.listener.requireHeader.name }}
{{- if not (and $v.secretName $v.listener.requireHeader.secretKey) }}
{{- fail "bearerd: `listener.requireHeader` needs `secretName` and `listener.requireHeader.secretKey`: the header's value is a secret" }}
{{- end }}
{{- end }}
{{- if and $v.listener.tls.clientCa (not $v.listener.tls.secretName) }}
{{- fail "bearerd: `listener.tls.clientCa` needs `listener.tls.secretName`" }}
{{- end }}
{{- if and (eq $v.mode "standalone") (not $v.existingConfigMap) }}
{{- if not (or $v.listener.allow $v.listener.requireHeader.name $v.listener.tls.clientCa) }}
{{- fail "bearerd: anybody in the network could use the credentials: give `listener.allow`, `listener.requireHeader` or `listener.tls.clientCa`" }}
{{- end }}
{{- end }}
{{- if and $v.injection.enabled (eq $v.probes.type "exec") }}
{{- fail "bearerd: `injection` probes over HTTP: set `probes.type` to \"http\"" }}
{{- end }}
{{- if and $v.podMonitor.enabled (eq $v.probes.type "exec") }}
{{- fail "bearerd: `podMonitor` cannot reach an admin address on loopback: set `probes.type` to \"http\"" }}
{{- end }}
{{- if and $v.podMonitor.enabled (eq $v.mode "sidecar") (not $v.podMonitor.selector) (not $v.injection.enabled) }}
{{- fail "bearerd: `podMonitor.selector` is empty: give the labels of the pods that bearerd is in" }}
{{- end }}
{{- end }}

{{/* The files. `routes` is a file of its own, so that the line number of an error is the line of your text. */}}
{{- define "bearerd.configData" -}}
bearerd.toml: |
  {{- include "bearerd.config" . | nindent 2 }}
routes.toml: |
  {{- trim .Values.routes | nindent 2 }}
{{- end }}

{{- define "bearerd.config" -}}
include = ["routes.toml"]
drain_delay = "{{ int .Values.drainDelaySeconds }}s"
shutdown_timeout = "{{ int .Values.shutdownTimeoutSeconds }}s"

{{ trim .Values.settings }}

[admin]
address = "{{ include "bearerd.adminAddress" . }}:{{ int .Values.admin.port }}"

{{ with include "bearerd.hasStore" . }}{{ include "bearerd.store" $ }}

{{ end }}{{ if eq .Values.mode "standalone" }}{{ include "bearerd.listener" (dict "context" . "name" "main" "address" (include "bearerd.everywhere" .)) }}
{{- else }}{{ include "bearerd.listener" (dict "context" . "name" "main" "address" "127.0.0.1") }}
{{- if .Values.ipv6 }}

{{ include "bearerd.listener" (dict "context" . "name" "main6" "address" "[::1]") }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bearerd.hasStore" -}}
{{- if or .Values.store.url .Values.store.urls }}true{{ end }}
{{- end }}

{{- define "bearerd.store" -}}
{{- $file := "/run/secrets/store/%s" }}
{{- with .Values.store -}}
[store]
{{- if .url }}
url = {{ toJson .url }}
{{- else }}
urls = {{ toJson .urls }}
{{- end }}
{{- if .cluster }}
cluster = true
{{- end }}
{{- with .sentinel }}
sentinel = {{ toJson . }}
{{- end }}
{{- with .username }}
username = {{ toJson . }}
{{- end }}
{{- with .passwordKey }}
password = { file = {{ toJson (printf $file .) }} }
{{- end }}
keys = [{{ range $index, $key := .keys }}{{ if $index }}, {{ end }}{ file = {{ toJson (printf $file $key) }} }{{ end }}]
prefix = {{ toJson .prefix }}
timeout = {{ toJson .timeout }}
{{- with .caKey }}
tls = { ca = { file = {{ toJson (printf $file .) }} } }
{{- end }}
{{- end }}
{{- end }}

{{/* Every address of the pod. `[::]` takes IPv4 too. */}}
{{- define "bearerd.everywhere" -}}
{{ ternary "[::]" "0.0.0.0" .Values.ipv6 }}
{{- end }}

{{/* Probes come from the node, `bearerd healthcheck` from inside. */}}
{{- define "bearerd.adminAddress" -}}
{{ eq .Values.probes.type "exec" | ternary "127.0.0.1" (include "bearerd.everywhere" .) }}
{{- end }}

{{- define "bearerd.listener" -}}
{{- $v := .context.Values }}
{{- $names := $v.listener.names -}}
[listener.{{ .name }}]
address = "{{ .address }}:{{ int $v.listener.port }}"
{{- if eq $v.mode "standalone" }}
{{- $full := include "bearerd.fullname" .context }}
{{- $namespace := .context.Release.Namespace }}
{{- range $suffix := list "" (printf ".%s" $namespace) (printf ".%s.svc" $namespace) (printf ".%s.svc.cluster.local" $namespace) }}
{{- $names = append $names (printf "%s%s" $full $suffix) }}
{{- end }}
callers = "network"
{{- with $v.listener.allow }}
allow = {{ toJson . }}
{{- end }}
{{- with $v.listener.requireHeader }}
{{- if .name }}
require_header = { name = {{ toJson .name }}, value = { file = "/run/secrets/bearerd/{{ .secretKey }}" } }
{{- end }}
{{- end }}
{{- end }}
{{- if $names }}
names = {{ toJson (uniq $names) }}
{{- end }}
{{- with $v.listener.tls }}
{{- if .secretName }}
tls = { certificate = { file = "/run/secrets/tls/tls.crt" }, private_key = { file = "/run/secrets/tls/tls.key" }{{ if .clientCa }}, client_ca = { file = "/run/secrets/tls/ca.crt" }{{ end }} }
{{- end }}
{{- end }}
{{- end }}

{{/* An HTTP or exec probe's action. */}}
{{- define "bearerd.probe" -}}
{{- if eq .context.Values.probes.type "exec" -}}
exec:
  command: ["/usr/local/bin/bearerd", "healthcheck"]
timeoutSeconds: 6
{{- else -}}
httpGet:
  path: {{ .path }}
  port: bearerd-admin
timeoutSeconds: {{ .timeout }}
{{- end }}
{{- end }}

{{/*
The container. For `initContainers` as a native sidecar:
  initContainers:
    {{- include "bearerd.container" .Subcharts.bearerd | nindent 8 }}
*/}}
{{- define "bearerd.container" -}}
{{- include "bearerd.validate" . -}}
- name: bearerd
  image: {{ include "bearerd.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if eq .Values.mode "sidecar" }}
  restartPolicy: Always
  {{- end }}
  args: ["run"]
  {{- with .Values.extraEnv }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  ports:
    {{- if eq .Values.mode "standalone" }}
    - name: proxy
      containerPort: {{ int .Values.listener.port }}
    {{- end }}
    - name: bearerd-admin
      containerPort: {{ int .Values.admin.port }}
  startupProbe:
    {{- include "bearerd.probe" (dict "context" . "path" (ternary "/livez" "/readyz" (eq .Values.probes.startup "process")) "timeout" 2) | nindent 4 }}
    periodSeconds: 1
    failureThreshold: {{ int .Values.probes.startupSeconds }}
  readinessProbe:
    {{- include "bearerd.probe" (dict "context" . "path" "/readyz" "timeout" 2) | nindent 4 }}
    periodSeconds: 5
    failureThreshold: 2
  {{- if eq .Values.probes.type "http" }}
  livenessProbe:
    {{- include "bearerd.probe" (dict "context" . "path" "/livez" "timeout" 5) | nindent 4 }}
    periodSeconds: 10
    failureThreshold: 6
  {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  securityContext:
    {{- include "bearerd.securityContext" . | nindent 4 }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    {{- include "bearerd.volumeMounts" . | nindent 4 }}
{{- end }}

{{- define "bearerd.securityContext" -}}
runAsNonRoot: true
{{- if not .Values.openshift }}
runAsUser: 65532
runAsGroup: 65532
{{- end }}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "bearerd.podSecurityContext" -}}
runAsNonRoot: true
{{- if not .Values.openshift }}
# Mounted files belong to root and to this group, which is bearerd's own: nobody else reads them.
fsGroup: 65532
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What each pod of this chart has in common. */}}
{{- define "bearerd.podCommon" -}}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Labels and annotations of a pod that ends by itself: no Service selects it, and no mesh's sidecar keeps it alive. */}}
{{- define "bearerd.onceMetadata" -}}
labels:
  app.kubernetes.io/name: {{ include "bearerd.name" . }}-check
  app.kubernetes.io/instance: {{ .Release.Name }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
  sidecar.istio.io/inject: "false"
  bearerd.io/inject: disabled
  {{- with .Values.extraLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  linkerd.io/inject: disabled
  {{- with .Values.extraAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "bearerd.volumeMounts" -}}
- name: bearerd-config
  mountPath: /etc/bearerd
  readOnly: true
{{- if .Values.secretName }}
- name: bearerd-secrets
  mountPath: /run/secrets/bearerd
  readOnly: true
{{- end }}
{{- if .Values.store.secretName }}
- name: bearerd-store
  mountPath: /run/secrets/store
  readOnly: true
{{- end }}
{{- if .Values.serviceAccountToken.enabled }}
- name: bearerd-token
  mountPath: /run/secrets/tokens
  readOnly: true
{{- end }}
{{- if .Values.listener.tls.secretName }}
- name: bearerd-tls
  mountPath: /run/secrets/tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
Mounted files belong to root. In a pod of its own, bearerd reads them through its group. As a sidecar it leaves the pod's groups
alone, so the files are readable by all, and only bearerd's container mounts them.
*/}}
{{- define "bearerd.secretMode" -}}
{{ eq .Values.mode "standalone" | ternary "0440" "0444" }}
{{- end }}

{{/*
The volumes of that container:
  volumes:
    {{- include "bearerd.volumes" .Subcharts.bearerd | nindent 8 }}
*/}}
{{- define "bearerd.volumes" -}}
- name: bearerd-config
  configMap:
    name: {{ include "bearerd.configMapName" . }}
{{- with .Values.secretName }}
- name: bearerd-secrets
  projected:
    defaultMode: {{ include "bearerd.secretMode" $ }}
    sources:
      - secret:
          name: {{ . }}
{{- end }}
{{- with .Values.store.secretName }}
- name: bearerd-store
  projected:
    defaultMode: {{ include "bearerd.secretMode" $ }}
    sources:
      - secret:
          name: {{ . }}
{{- end }}
{{- if .Values.serviceAccountToken.enabled }}
- name: bearerd-token
  projected:
    defaultMode: {{ include "bearerd.secretMode" . }}
    sources:
      - serviceAccountToken:
          path: token
          audience: {{ .Values.serviceAccountToken.audience | quote }}
          expirationSeconds: {{ int .Values.serviceAccountToken.expirationSeconds }}
{{- end }}
{{- with .Values.listener.tls.secretName }}
- name: bearerd-tls
  projected:
    defaultMode: {{ include "bearerd.secretMode" $ }}
    sources:
      - secret:
          name: {{ . }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
