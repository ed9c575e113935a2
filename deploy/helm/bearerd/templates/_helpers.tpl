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

{{- define "bearerd.labels" -}}
{{ include "bearerd.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "bearerd.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "bearerd.configMapName" -}}
{{- default (include "bearerd.fullname" .) .Values.existingConfigMap }}
{{- end }}

{{/* What a schema cannot say in plain words. */}}
{{- define "bearerd.validate" -}}
{{- $v := .Values }}
{{- if and (not $v.existingConfigMap) (not (trim $v.routes)) }}
{{- fail "bearerd: `routes` is empty: write issuers and routes there as TOML, or name an `existingConfigMap`" }}
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
{{- if and $v.podMonitor.enabled (eq $v.probes.type "exec") }}
{{- fail "bearerd: `podMonitor` cannot reach an admin address on loopback: set `probes.type` to \"http\"" }}
{{- end }}
{{- if and $v.podMonitor.enabled (eq $v.mode "sidecar") (not $v.podMonitor.selector) }}
{{- fail "bearerd: `podMonitor.selector` is empty: give the labels of the pods that bearerd is in" }}
{{- end }}
{{- end }}

{{/* The config file. `routes` stands in a file of its own, so that an error's line number is the line of your text. */}}
{{- define "bearerd.config" -}}
include = ["routes.toml"]
drain_delay = "{{ int .Values.drainDelaySeconds }}s"
shutdown_timeout = "{{ int .Values.shutdownTimeoutSeconds }}s"

{{ trim .Values.settings }}

[admin]
address = "{{ ternary "127.0.0.1" "0.0.0.0" (eq .Values.probes.type "exec") }}:{{ int .Values.admin.port }}"

[listener.main]
{{- $names := .Values.listener.names }}
{{- if eq .Values.mode "standalone" }}
{{- $full := include "bearerd.fullname" . }}
{{- range $suffix := list "" (printf ".%s" .Release.Namespace) (printf ".%s.svc" .Release.Namespace) (printf ".%s.svc.cluster.local" .Release.Namespace) }}
{{- $names = append $names (printf "%s%s" $full $suffix) }}
{{- end }}
address = "0.0.0.0:{{ int .Values.listener.port }}"
callers = "network"
{{- with .Values.listener.allow }}
allow = {{ toJson . }}
{{- end }}
{{- with .Values.listener.requireHeader }}
{{- if .name }}
require_header = { name = {{ toJson .name }}, value = { file = "/run/secrets/bearerd/{{ .secretKey }}" } }
{{- end }}
{{- end }}
{{- else }}
address = "127.0.0.1:{{ int .Values.listener.port }}"
{{- end }}
{{- if $names }}
names = {{ toJson (uniq $names) }}
{{- end }}
{{- with .Values.listener.tls }}
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
    {{- include "bearerd.probe" (dict "context" . "path" "/readyz" "timeout" 2) | nindent 4 }}
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
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    privileged: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: ["ALL"]
    seccompProfile:
      type: RuntimeDefault
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    - name: bearerd-config
      mountPath: /etc/bearerd
      readOnly: true
    {{- if .Values.secretName }}
    - name: bearerd-secrets
      mountPath: /run/secrets/bearerd
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
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/*
Mounted files are root's. In a pod of its own bearerd reads them by its group; as a sidecar it leaves the pod's groups alone, so
all may read, and only its own container mounts them.
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
