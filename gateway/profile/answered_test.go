package profile

import (
	"slices"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/pkix"
)

// What the operator's services said of a request stands in the certificate where a template has it.
func TestAttributesOfTheRequest(t *testing.T) {
	const config = `{subject: "CN={{device.name}},OU={{attributes.site | upper}}", san: {dns: ["{{device.name}}.{{attributes.site}}.example"]}}`
	f := world(t)
	f.g.Attributes = map[string]string{"site": "muc"}
	if err := shaper(t, config).Shape(f.r, f.g); err != nil {
		t.Fatal(err)
	}
	if got := pkix.FormatName(f.g.Subject); got != "CN=bts-17,OU=MUC" && got != "OU=MUC,CN=bts-17" {
		t.Error(got)
	}
	if got := sanText(f.g.SubjectAltName); got != "dns:bts-17.muc.example" {
		t.Error(got)
	}
	// It is the operator's word: the client is told no more than that its names cannot be made.
	f.g.Attributes = map[string]string{"Site": "muc"}
	refused(t, shaper(t, config).Shape(f.r, f.g), gateway.NotAuthorized, "ask its operator", "{{attributes.site | upper}}: no service has said the attribute site")
	f.g.Attributes["site"] = "a b"
	refused(t, shaper(t, config).Shape(f.r, f.g), gateway.NotAuthorized, "ask its operator", "is not a host name")
	// A value never becomes a name of its own.
	f.g.Attributes["site"] = "x,O=Other"
	if err := shaper(t, `{subject: "OU={{attributes.site}}"}`).Shape(f.r, f.g); err != nil || pkix.FormatName(f.g.Subject) != `OU=x\,O=Other` {
		t.Error(pkix.FormatName(f.g.Subject), err)
	}
	if shaper(t, config).NamesFromRequest() {
		t.Error("the requester's word")
	}
	for source, want := range map[string]string{
		"{{attributes}}": "attributes.site", "{{attributes.a.b}}": "attributes.site", `{{attributes "a-b"}}`: `"a-b" is no name of an attribute`,
		"{{attribute.site}}": `did you mean "attributes"`, "{{attributes.site.x | lower}}": "attributes.site",
	} {
		if _, err := ParseTemplate(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// Which attributes the templates cannot do without.
func TestReadsAttributes(t *testing.T) {
	for config, want := range map[string][]string{
		`{subject: "CN={{device.name}}"}`: nil,
		`{subject: "CN={{attributes.b}},OU={{attributes.a}}{{attributes.b}}", san: {dns: ["{{attributes.c}}"]}}`: {"a", "b", "c"},
		`{subject: "CN=x,OU={{attributes.a | optional}},O={{attributes.b | default \"x\"}}"}`:                    nil,
	} {
		got := shaper(t, config).ReadsAttributes()
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %v", config, got)
		}
	}
}
