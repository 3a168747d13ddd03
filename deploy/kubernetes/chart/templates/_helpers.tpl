{{- define "sidegate.labels" -}}
app.kubernetes.io/name: {{ .Release.Name }}
{{- end }}

{{- define "sidegate.secret" -}}
{{ .Release.Name }}-sidegate
{{- end }}

{{- /* config.yaml: what the values name, then the section `config` of the values over it. */ -}}
{{- define "sidegate.config" -}}
{{- $config := dict
  "listen" (dict "port" .Values.sidecar.port "drain_timeout" "20s")
  "admin" (dict "host" "0.0.0.0" "port" .Values.sidecar.adminPort "token" "${ADMIN_TOKEN}")
  "upstream" (dict "url" (printf "http://127.0.0.1:%v" .Values.application.port))
  "store" (dict "url" "${REDIS_URL}" "password" "${REDIS_PASSWORD:-}" "key_prefix" (tpl .Values.store.keyPrefix .) "on_failure" .Values.store.onFailure)
  "client_ip" (dict "trusted_proxies" .Values.trustedProxies)
  "policies" .Values.policies
-}}
{{- toYaml (mergeOverwrite $config .Values.config) }}
{{- end }}

{{- define "sidegate.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
