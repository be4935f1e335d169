{{- define "mailvitals.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "mailvitals.selector" -}}
app.kubernetes.io/name: mailvitals
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mailvitals.labels" -}}
{{ include "mailvitals.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ if eq .Values.form "edge" }}edge{{ else }}agent{{ end }}
app.kubernetes.io/part-of: mailvitals
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}
