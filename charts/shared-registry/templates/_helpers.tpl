{{/* The first part of every name. */}}
{{- define "sr.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "sr.router" -}}{{ include "sr.name" . }}-router{{- end }}
{{- define "sr.admin" -}}{{ include "sr.name" . }}-router-admin{{- end }}
{{- define "sr.replica" -}}{{ include "sr.name" . }}-replica{{- end }}
{{- define "sr.config" -}}{{ include "sr.name" . }}-config{{- end }}

{{- define "sr.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "sr.router" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "sr.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "sr.listen" -}}
{{ ternary "::" "0.0.0.0" (eq .Values.ipFamily "IPv6") }}
{{- end }}

{{/* Takes a list of the root and a component. */}}
{{- define "sr.selector" -}}
app.kubernetes.io/name: shared-registry
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "sr.labels" -}}
{{ include "sr.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end }}

{{/* The url of Redis, as an environment variable of routers and of `join`. */}}
{{- define "sr.redisEnv" -}}
- name: SHARED_REGISTRY_REDIS_URL
  valueFrom:
    secretKeyRef:
      {{- if .Values.redis.url }}
      name: {{ include "sr.name" . }}-redis
      key: url
      {{- else }}
      name: {{ .Values.redis.existingSecret }}
      key: {{ .Values.redis.key }}
      {{- end }}
{{- end }}

{{/* What routers and `join` mount. */}}
{{- define "sr.mounts" -}}
- {name: config, mountPath: /etc/shared-registry, readOnly: true}
{{- if .Values.redis.caSecret }}
- {name: redis-ca, mountPath: /run/secrets/shared-registry/redis, readOnly: true}
{{- end }}
{{- end }}

{{- define "sr.volumes" -}}
- name: config
  configMap: {name: {{ include "sr.config" . }}}
{{- if .Values.redis.caSecret }}
- name: redis-ca
  secret: {secretName: {{ .Values.redis.caSecret }}}
{{- end }}
{{- end }}

{{/* Of containers of our own image, which writes no file. */}}
{{- define "sr.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
runAsGroup: 10001
runAsNonRoot: true
runAsUser: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Sessions may take so long to finish when a router stops; 30 is the setting's own default. */}}
{{- define "sr.grace" -}}
{{- if hasKey .Values.config "grace_seconds" }}{{ .Values.config.grace_seconds | float64 | ceil | int }}{{ else }}30{{ end }}
{{- end }}

{{/* The namespaces of Kubernetes in which routers discover replicas, as JSON; "" is their own. */}}
{{- define "sr.discovered" -}}
{{- $found := list }}
{{- range concat (list .Values.config) (.Values.config.pools | default list) }}
{{- range .discovery | default list }}
{{- if eq (.kind | default "") "kubernetes" }}
{{- $found = append $found (.namespace | default $.Release.Namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- $found | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Refuses what a schema cannot, or not clearly enough. */}}
{{- define "sr.check" -}}
{{- if not (regexMatch "^[a-z][-a-z0-9]*$" .Release.Name) }}
{{- fail "the name of the release: Services need one that begins with a letter and has letters, digits and hyphens only" }}
{{- end }}
{{- if not (kindIs "map" .Values.config) }}
{{- fail "config: must be a mapping of settings; {} has none" }}
{{- end }}
{{- $owned := dict
  "redis_url" "set redis.existingSecret, or redis.url for a trial"
  "host" "set ipFamily"
  "admin_host" "set ipFamily"
  "port" "routers listen at 9000; set service.port"
  "admin_port" "it is 10000"
  "workers" "set routers.count; each pod is one process, so that probes and metrics meet each of them"
  "tls_certificate_file" "set tls.existingSecret"
  "tls_key_file" "set tls.existingSecret"
  "tls_client_ca_file" "set tls.clientCa"
  "api_keys_file" "set apiKeys.existingSecret"
  "admin_tokens_file" "set adminTokens.existingSecret" }}
{{- range $key, $remedy := $owned }}
{{- if hasKey $.Values.config $key }}
{{- fail (printf "config.%s: the chart sets this itself; %s" $key $remedy) }}
{{- end }}
{{- end }}
{{- if not (or .Values.redis.url .Values.redis.existingSecret) }}
{{- fail "redis.existingSecret: name a Secret that has the url of Redis, or set redis.url for a trial" }}
{{- end }}
{{- if and .Values.tls.clientCa (not .Values.tls.existingSecret) }}
{{- fail "tls.clientCa: needs tls.existingSecret, a Secret with ca.crt" }}
{{- end }}
{{- if not (or .Values.routers.enabled .Values.replicas.enabled) }}
{{- fail "routers.enabled: without routers and without replicas nothing is left to install" }}
{{- end }}
{{- with .Values.routers.autoscaling }}
{{- if gt (int .min) (int .max) }}
{{- fail "routers.autoscaling.min: is above routers.autoscaling.max" }}
{{- end }}
{{- if and .enabled (not .sessionsPerRouter) (not .cpuPercent) }}
{{- fail "routers.autoscaling.cpuPercent: needs a value above 0, or sessionsPerRouter does" }}
{{- end }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.networkPolicy.enabled (not .Values.networkPolicy.admin) }}
{{- fail "networkPolicy.admin: name the pods of Prometheus, or serviceMonitor cannot reach the routers" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (eq (.Values.config.admin_access | default "") "none") (not .Values.serviceMonitor.tokenSecret.name) }}
{{- fail "serviceMonitor.tokenSecret.name: Prometheus needs a token where config.admin_access is none" }}
{{- end }}
{{- if .Values.replicas.enabled }}
{{- with .Values.replicas }}
{{- if not .image }}
{{- fail "replicas.image: name the image of the GPU server" }}
{{- end }}
{{- if and (eq .join "wrapper") (not .command) }}
{{- fail "replicas.command: a wrapper needs the whole command line of the GPU server" }}
{{- end }}
{{- if and .autoscaling.enabled (not .capacity) }}
{{- fail "replicas.capacity: autoscaling counts slots, so replicas need a capacity" }}
{{- end }}
{{- if and .autoscaling.enabled (not $.Values.routers.enabled) (not .autoscaling.selector) }}
{{- fail "replicas.autoscaling.selector: name the labels of the metric, which the routers of another release have" }}
{{- end }}
{{- if gt (int .autoscaling.min) (int .autoscaling.max) }}
{{- fail "replicas.autoscaling.min: is above replicas.autoscaling.max" }}
{{- end }}
{{- end }}
{{- if .Values.config.pools }}
{{- fail "config.pools: a release with replicas has one pool; install their replicas as releases of their own, with routers.enabled: false" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The settings of the routers: those of `config`, and what follows from other values. */}}
{{- define "sr.settings" -}}
{{- $settings := deepCopy .Values.config }}
{{- if not (hasKey $settings "namespace") }}
{{- $_ := set $settings "namespace" .Release.Name }}
{{- end }}
{{- $admin := include "sr.admin" . }}
{{- $names := list $admin (printf "%s.%s" $admin .Release.Namespace) (printf "%s.%s.svc" $admin .Release.Namespace) }}
{{- $_ := set $settings "admin_names" (concat $names ($settings.admin_names | default list)) }}
{{- $_ := set $settings "admin_host" (include "sr.listen" .) }}
{{- if .Values.tls.existingSecret }}
{{- $_ := set $settings "tls_certificate_file" "/run/secrets/shared-registry/tls/tls.crt" }}
{{- $_ := set $settings "tls_key_file" "/run/secrets/shared-registry/tls/tls.key" }}
{{- if .Values.tls.clientCa }}
{{- $_ := set $settings "tls_client_ca_file" "/run/secrets/shared-registry/tls/ca.crt" }}
{{- end }}
{{- end }}
{{- if .Values.apiKeys.existingSecret }}
{{- $_ := set $settings "api_keys_file" (printf "/run/secrets/shared-registry/api-keys/%s" .Values.apiKeys.key) }}
{{- end }}
{{- if .Values.adminTokens.existingSecret }}
{{- $_ := set $settings "admin_tokens_file" (printf "/run/secrets/shared-registry/admin-tokens/%s" .Values.adminTokens.key) }}
{{- end }}
{{- toYaml (dict "router" $settings) }}
{{- end }}
