{
{{- if not .Token.muster }}{{ fail "the token has no claim `muster`: this template is for tokens of Muster" }}{{ end }}
{{- with .Token.muster }}
{{- range .extensions }}{{ if eq .id "2.5.29.19" }}{{ fail "basicConstraints are not Muster's to set" }}{{ end }}{{ end }}
	"serialNumber": {{ toJson .serialNumber }},
	"rawSubject": {{ toJson .rawSubject }},
	"subject": {"commonName": {{ toJson .commonName }}},
	"dnsNames": {{ toJson .dnsNames }},
	"emailAddresses": {{ toJson .emailAddresses }},
	"ipAddresses": {{ toJson .ipAddresses }},
	"uris": {{ toJson .uris }},
	"keyUsage": {{ toJson .keyUsage }},
	"unknownExtKeyUsage": {{ toJson .unknownExtKeyUsage }},
	"extensions": {{ toJson .extensions }}
{{- end }}
}
