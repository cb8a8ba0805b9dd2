{{/* The name of what is made. */}}
{{- define "evercert.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What never changes: a Deployment's selector cannot. */}}
{{- define "evercert.selector" -}}
app.kubernetes.io/name: evercert
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "evercert.labels" -}}
{{ include "evercert.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "evercert.image" -}}
{{- $repository := required "image.repository: name the image that your nodes pull, such as registry.example.com/evercert (none is published yet: `docker build -t NAME .` makes it)" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- define "evercert.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "evercert.fullname" .) -}}
{{- end -}}

{{- define "evercert.solverServiceAccount" -}}
{{- .Values.solver.serviceAccount.name | default (printf "%s-solver" (include "evercert.fullname" .)) -}}
{{- end -}}

{{/* The labels that the controller gives its solver. */}}
{{- define "evercert.solverSelector" -}}
app.kubernetes.io/name: evercert-solver
{{- end -}}
