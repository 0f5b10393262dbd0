{{- define "muster.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "muster.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "muster.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "muster.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "muster.selector" -}}
app.kubernetes.io/name: {{ include "muster.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "muster.labels" -}}
{{ include "muster.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "muster.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "muster.fullname" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "muster.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "muster.many" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) }}yes{{ end }}
{{- end }}

{{- /* What would run, and not as it was meant. */ -}}
{{- define "muster.check" -}}
{{- $c := .Values.config }}
{{- if eq .Values.store.type "sqlite" }}
{{- if gt (int .Values.replicas) 1 }}{{ fail "replicas: SQLite is for one gateway. For more, set store.type=postgres and store.url" }}{{ end }}
{{- if .Values.autoscaling.enabled }}{{ fail "autoscaling.enabled: SQLite is for one gateway. For more, set store.type=postgres and store.url" }}{{ end }}
{{- if .Values.store.url }}{{ fail "store.url: set store.type=postgres too" }}{{ end }}
{{- else }}
{{- if not (regexMatch "^postgres(ql)?://" .Values.store.url) }}{{ fail "store.url: want postgres://USER@HOST/DATABASE" }}{{ end }}
{{- if regexMatch "^[a-z]+://[^/@]*:[^/@]*@" .Values.store.url }}{{ fail "store.url: everybody who may read ConfigMaps would read the password: put it into pgpass of secrets.existingSecret" }}{{ end }}
{{- if not .Values.secrets.existingSecret }}{{ fail "secrets.existingSecret: replicas on PostgreSQL need seal.key and pgpass in a Secret" }}{{ end }}
{{- if include "muster.many" . }}
{{- range $name, $b := $c.backends }}
{{- if and $b (eq (toString $b.plugin) "local") (not $.Values.authority.existingClaim) }}
{{- range $i := list "ec" "rsa" }}
{{- if not (dig "config" "issuers" $i "import" "" $b) }}{{ fail (printf "config.backends.%s: the built-in CA of several replicas needs authority.existingClaim, a ReadWriteMany claim for its keys; or the issuers ec and rsa with import" $name) }}{{ end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and $c.store }}{{ fail "config.store: set store.type and store.url" }}{{ end }}
{{- if not (dig "listeners" "ops" "" $c) }}{{ fail "config.listeners.ops: the probes need it" }}{{ end }}
{{- if dig "listeners" "ops" "tls" "" $c }}{{ fail "config.listeners.ops: the probes ask over HTTP: no tls" }}{{ end }}
{{- end }}

{{- define "muster.config" -}}
{{- include "muster.check" . }}
{{- $c := deepCopy .Values.config }}
{{- if eq .Values.store.type "sqlite" }}
{{- $_ := set $c "store" "sqlite:/data/muster.db" }}
{{- else }}
{{- $_ := set $c "store" .Values.store.url }}
{{- if not $c.seal }}{{ $_ := set $c "seal" (dict "file" "/run/muster/seal.key") }}{{ end }}
{{- end }}
{{- if index $c "server-certificate" }}
{{- $own := index $c "server-certificate" }}
{{- $name := include "muster.fullname" . }}
{{- $_ := set $own "names" (concat ($own.names | default list) (list $name (printf "%s.%s" $name .Release.Namespace) (printf "%s.%s.svc" $name .Release.Namespace)) | uniq) }}
{{- end }}
{{- toYaml $c }}
{{- end }}
