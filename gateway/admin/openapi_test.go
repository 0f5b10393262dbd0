package admin

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// call is what openapi.json says of a route beside its method, path and role.
type call struct {
	summary string
	query   []string // "name: what it means"
	body    any      // nil for none
	answer  any      // nil for another than JSON
	kind    string   // its media type, where it is not JSON
}

var paging = []string{"limit: 1 to 1000; default 100"}

var calls = map[string]call{
	"GET /v1/transactions": {"List transactions, the newest first.", append([]string{
		"state: states, with commas between them", "endpoint: only its own", "device: only its own", "before: ID; only older ones",
		"refused: \"recent\" adds refusals of those who did not authenticate, which are kept in memory only"}, paging...), nil, TransactionList{}, ""},
	"GET /v1/transactions/{id}":          {"Show all that is known of one, by its ID or at least 6 characters of its beginning or end.", nil, nil, Transaction{}, ""},
	"POST /v1/transactions/{id}/approve": {"Approve a held request. With the last approval that it takes, the CA is asked.", nil, Decision{}, Transaction{}, ""},
	"POST /v1/transactions/{id}/deny":    {"Deny a held request.", nil, Decision{}, Transaction{}, ""},
	"POST /v1/transactions/{id}/settle":  {"Say what became of a transaction that is stuck, unknown or waiting, by the CA's own records.", nil, Finding{}, Transaction{}, ""},
	"GET /v1/certificates": {"List certificates, the newest first.", append([]string{
		"device: only its own", "requester: only its own", "valid: \"now\": neither expired nor revoked", "before: ID of a transaction; only older ones"}, paging...), nil, CertificateList{}, ""},
	"POST /v1/certificates/revoke": {"Revoke a certificate, or all of a device.", nil, RevokeOrder{}, RevokeResult{}, ""},
	"GET /v1/devices": {"List the inventory, by name.", append([]string{
		"vendor: only its own", "prefix: of the name", "disabled: \"true\" or \"false\"", "after: name; only later ones"}, paging...), nil, DeviceList{}, ""},
	"POST /v1/devices":        {"Add a device.", []string{"replace: \"true\": in the place of one that stands under the name"}, Device{}, Device{}, ""},
	"POST /v1/devices/import": {"Add many devices, or none: one Device a line, at most 1000000, of at most 16384 bytes each. The answer is an ImportLine a line.", []string{"replace: \"true\": in the place of those that stand under their names"}, importBody{}, ImportLine{}, ndjson},
	"GET /v1/devices/{name}":  {"Show a device, by its name or an identifier.", nil, nil, Device{}, ""},
	"DELETE /v1/devices/{name}": {"Take a device away, by its name. Its certificates stay.",
		nil, nil, Device{}, ""},
	"POST /v1/devices/{name}/state":   {"Disable a device, or take that back.", nil, DeviceState{}, Device{}, ""},
	"POST /v1/devices/{name}/reset":   {"Set a device's enrollments, and what limits have counted of it, back to none, and make its one-time password good again.", nil, nil, Device{}, ""},
	"GET /v1/challenges":              {"List challenges, the newest first.", append([]string{"endpoint: only its own", "expired: \"true\": those too", "before: ID; only older ones"}, paging...), nil, ChallengeList{}, ""},
	"POST /v1/challenges":             {"Make a challenge. The answer is the only one that has it in clear.", nil, NewChallenge{}, Challenge{}, ""},
	"DELETE /v1/challenges/{id}":      {"Take a challenge away.", nil, nil, struct{}{}, ""},
	"GET /v1/secrets":                 {"List the shared secrets of devices, without the secrets.", append([]string{"endpoint: only its own", "after: what an earlier list gave as next"}, paging...), nil, SecretList{}, ""},
	"POST /v1/secrets":                {"Give a device its shared secret.", nil, NewSecret{}, Secret{}, ""},
	"DELETE /v1/secrets":              {"Take a shared secret away.", []string{"endpoint: required", "reference: required; base64url without padding"}, nil, Secret{}, ""},
	"GET /v1/cas":                     {"List the CAs of all backends.", nil, nil, CAList{}, ""},
	"GET /v1/cas/{backend}/crl":       {"A CRL, DER.", []string{"name: one of a CA's crls; absent: the default CA's"}, nil, nil, "application/pkix-crl"},
	"POST /v1/cas/{backend}/rollover": {"Change a CA over to a new certificate or key.", nil, RolloverOrder{}, CA{}, ""},
	"POST /v1/cmp":                    {"As POST /v1/cmp/{endpoint}, for the default CMP endpoint, or the only one.", nil, pkiMessage{}, nil, typePKIXCMP},
	"POST /v1/cmp/{endpoint}":         {"Have a CMP endpoint answer a PKIMessage, DER, at most 262144 bytes, that somebody carried here. The answer is a PKIMessage too, be it a refusal.", nil, pkiMessage{}, nil, typePKIXCMP},
	"GET /v1/overview":                {"Count the requests of a time by protocol and state, and the certificates that end in the coming half year.", []string{"span: \"day\", \"week\" or \"month\"; default day"}, nil, Overview{}, ""},
	"GET /v1/pipelines":               {"Draw what requests pass at each endpoint of the running configuration.", nil, nil, PipelineList{}, ""},
	"POST /v1/reload":                 {"Read the configuration again and put it into force, all of it or nothing.", nil, nil, Reload{}, ""},
	"GET /v1/status":                  {"How the gateway fares.", nil, nil, Status{}, ""},
	"GET /v1/openapi.json":            {"This document.", nil, nil, map[string]any{}, ""},
	"GET /metrics":                    {"Metrics for Prometheus.", nil, nil, nil, "text/plain"},
}

// importBody is an entry a line.
type importBody struct{}

// pkiMessage is no JSON.
type pkiMessage struct{}

var pathParameter = regexp.MustCompile(`:([a-z]+)`)

type object = map[string]any

// document makes openapi.json.
func document(t *testing.T, routes []route) []byte {
	t.Helper()
	schemas := schemaMaker{docs: comments(t), made: object{}}
	schemas.of(reflect.TypeFor[Failure]())
	paths := object{}
	for _, r := range routes {
		path := pathParameter.ReplaceAllString(r.path, "{$1}")
		c, ok := calls[r.method+" "+path]
		if !ok {
			t.Errorf("calls says nothing of %s %s", r.method, path)
			continue
		}
		parameters := []object{}
		for _, m := range pathParameter.FindAllStringSubmatch(r.path, -1) {
			parameters = append(parameters, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
		}
		for _, q := range c.query {
			name, what, _ := strings.Cut(q, ": ")
			parameters = append(parameters, object{"name": name, "in": "query", "required": strings.HasPrefix(what, "required"), "description": what, "schema": object{"type": "string"}})
		}
		answer := object{"schema": object{"type": "string", "contentMediaType": c.kind}}
		if c.answer != nil {
			answer["schema"] = schemas.of(reflect.TypeOf(c.answer))
		}
		kind := c.kind
		if kind == "" {
			kind = "application/json"
		}
		operation := object{
			"summary": c.summary, "operationId": operationID(r.method, r.path), "x-role": r.role.String(), "parameters": parameters,
			"responses": object{
				"200":     object{"description": "Done.", "content": object{kind: answer}},
				"default": object{"description": "Not done. 400 what is asked for is wrong; 401 no token or certificate; 403 the role does not suffice; 404 there is none; 409 it cannot be as things stand; 413 too large; 415 another Content-Type is needed; 422 entries that cannot be imported, or a configuration that cannot be put into force; 503 the gateway cannot answer.", "content": object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Failure"}}}},
			},
		}
		if c.body != nil {
			typ, media := reflect.TypeOf(c.body), "application/json"
			if typ == reflect.TypeFor[importBody]() {
				typ, media = reflect.TypeFor[Device](), ndjson
			}
			schema := object{"type": "string", "contentMediaType": typePKIXCMP}
			if typ == reflect.TypeFor[pkiMessage]() {
				media = typePKIXCMP
			} else {
				schema = schemas.of(typ)
			}
			operation["requestBody"] = object{"required": true, "content": object{media: object{"schema": schema}}}
		}
		at, _ := paths[path].(object)
		if at == nil {
			at = object{}
			paths[path] = at
		}
		at[strings.ToLower(r.method)] = operation
	}
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title": "Muster admin API", "version": "1",
			"description": "What operators do. Roles: viewer reads; approver approves and denies held requests too, makes challenges, and passes CMP messages on; admin does everything. x-role is the least that a call takes. Whoever opens the Unix socket is admin. Unknown parameters and fields are refused.",
		},
		"security": []object{{"token": []string{}}, {"certificate": []string{}}, {}},
		"paths":    paths,
		"components": object{
			"schemas": schemas.made,
			"securitySchemes": object{
				"token":       object{"type": "http", "scheme": "bearer"},
				"certificate": object{"type": "mutualTLS"},
			},
		},
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(doc); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func operationID(method, path string) string {
	id := strings.ToLower(method)
	for _, part := range strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune("/:.", r) }) {
		if part != "v1" {
			id += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return id
}

// schemaMaker makes schemas of the wire structs, with their comments.
type schemaMaker struct {
	docs map[string]string // "Type", "Type.Field"
	made object
}

func (m *schemaMaker) of(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[Enrollments]():
		return object{"oneOf": []object{{"type": "integer", "minimum": 0}, {"const": unlimited}}}
	case t == reflect.TypeFor[[]byte]():
		return object{"type": "string", "contentEncoding": "base64"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{"type": "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return m.of(t.Elem())
	case reflect.Slice:
		return object{"type": "array", "items": m.of(t.Elem())}
	case reflect.Map:
		if t.Elem().Kind() == reflect.String {
			return object{"type": "object", "additionalProperties": object{"type": "string"}}
		}
		return object{"type": "object"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	}
	if t.Name() == "" {
		return object{"type": "object"}
	}
	if _, done := m.made[t.Name()]; !done {
		properties, required := object{}, []string{}
		schema := object{"type": "object", "description": m.docs[t.Name()], "properties": properties}
		m.made[t.Name()] = schema // before its fields: Verdict has Verdicts
		for f := range t.Fields() {
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			one := m.of(f.Type)
			if doc := m.docs[t.Name()+"."+f.Name]; doc != "" {
				one["description"] = doc
			}
			if !strings.Contains(options, "omitempty") {
				required = append(required, name)
			}
			properties[name] = one
		}
		schema["required"] = required
	}
	return object{"$ref": "#/components/schemas/" + t.Name()}
}

// comments reads what stands at the types of this package and at their fields.
func comments(t *testing.T) map[string]string {
	t.Helper()
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				typ, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				docs[typ.Name.Name] = plainText(g.Doc)
				body, ok := typ.Type.(*ast.StructType)
				if !ok {
					continue
				}
				for _, f := range body.Fields.List {
					for _, n := range f.Names {
						docs[typ.Name.Name+"."+n.Name] = strings.TrimSpace(plainText(f.Doc) + " " + plainText(f.Comment))
					}
				}
			}
		}
	}
	return docs
}

func plainText(c *ast.CommentGroup) string {
	return strings.Join(strings.Fields(c.Text()), " ")
}

// TestOpenAPIIsCurrent fails until openapi.json is written anew, with -update.
func TestOpenAPIIsCurrent(t *testing.T) {
	want := document(t, newServer(t, &source{}).routes())
	if *update {
		if err := os.WriteFile("openapi.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(openAPIDocument, want) {
		t.Error("openapi.json is not what routes, calls and the wire structs say: go test ./gateway/admin -run OpenAPI -update")
	}
}

// TestOpenAPIIsWhole reads the document itself: each route is in it and nothing else, and each field of what is exchanged.
func TestOpenAPIIsWhole(t *testing.T) {
	s := &source{}
	c, _ := serve(t, s)
	served, err := c.OpenAPI(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		OpenAPI    string `json:"openapi"`
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas map[string]struct{ Properties map[string]json.RawMessage }
		}
	}
	if err := json.Unmarshal(served, &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("%q, %v", doc.OpenAPI, err)
	}
	var documented, routed []string
	for path, methods := range doc.Paths {
		for method := range methods {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	for _, r := range newServer(t, s).routes() {
		routed = append(routed, r.method+" "+pathParameter.ReplaceAllString(r.path, "{$1}"))
	}
	slices.Sort(documented)
	slices.Sort(routed)
	if !slices.Equal(documented, routed) {
		t.Errorf("documented %v\nserved %v", documented, routed)
	}
	for _, x := range []any{
		TransactionList{}, Transaction{}, Verdict{}, Granted{}, Hold{}, Approval{}, Message{}, Decision{}, Finding{}, CertificateList{}, Certificate{},
		RevokeOrder{}, RevokeResult{}, Revoked{}, DeviceList{}, Device{}, Identifier{}, DeviceState{}, ImportLine{}, ImportResult{}, ImportFailure{},
		ChallengeList{}, Challenge{}, NewChallenge{}, SecretList{}, Secret{}, NewSecret{}, CAList{}, CA{}, CACertificate{}, RolloverOrder{},
		Status{}, Backend{}, Configuration{}, ReloadOutcome{}, Reload{}, Changes{}, BackendChanges{}, Failure{},
	} {
		typ := reflect.TypeOf(x)
		schema, ok := doc.Components.Schemas[typ.Name()]
		if !ok {
			t.Errorf("no schema of %s", typ.Name())
		}
		for f := range typ.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if _, ok := schema.Properties[name]; !ok || name == "" {
				t.Errorf("%s.%s (%q) is not in its schema", typ.Name(), f.Name, name)
			}
		}
	}
}
