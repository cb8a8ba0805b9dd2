{{/* What it may do in the namespaces that it looks after. Each right is used: an apply of something new needs patch and create, update
stands where a version is replaced. */}}
{{- define "evercert.rules" -}}
# What it is asked for, and what it reports.
- apiGroups: [evercert.dev]
  resources: [certificates, issuers]
  verbs: [get, list, watch]
# The Certificates that annotated Ingresses ask for; the specs of all others are never changed.
- apiGroups: [evercert.dev]
  resources: [certificates]
  verbs: [create, patch, delete]
- apiGroups: [evercert.dev]
  resources: [certificates/status, issuers/status]
  verbs: [update]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
# TLS Secrets, companions and account keys. Rights cannot be bound to a label; it watches its own by label, and reads others
# only when a Certificate or Issuer names them.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update, delete]
# Whether a Secret or an Ingress still belongs to cert-manager; without this right such a Secret is never adopted, and Evercert acts
# for an annotated Ingress whatever cert-manager does.
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get]
# The routes to the solver, in the namespace of each challenged Certificate; and everybody's Ingresses, to see what they cover.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch, create, patch, delete]
{{- if .Values.solver.namespacePlacement }}
# Forwarders in the namespaces of Certificates, fitted to what the LimitRanges there take.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch]
- apiGroups: [""]
  resources: [limitranges]
  verbs: [list, watch]
{{- end }}
{{- end -}}
