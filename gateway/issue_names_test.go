package gateway_test

import (
	"bytes"
	"testing"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/plugins/backend/backendtest"
)

// A renewal has its certificate's name, in whatever string types it is asked for. A CA that certifies a PKCS#10 as it stands gives it
// those of the request, so that these are what its certificate is held against.
func TestSubjectOfWhomTheCAObeys(t *testing.T) {
	for name, c := range map[string]struct {
		forms     []backend.Form
		overrides []backend.Field
		other     bool // a name, not only other string types
		asked     bool // want those of the request
		refused   bool
	}{
		"templates":                      {forms: []backend.Form{backend.FormTemplate, backend.FormPKCS10}},
		"PKCS#10":                        {forms: []backend.Form{backend.FormPKCS10}, asked: true},
		"PKCS#10, and subjects replaced": {forms: []backend.Form{backend.FormPKCS10}, overrides: []backend.Field{backend.FieldSubject}},
		"PKCS#10, and another name":      {forms: []backend.Form{backend.FormPKCS10}, other: true, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			var held []byte
			w := newWorld(t, backendtest.FaultPlan{}, func(w *world) {
				w.desc = func(d *backend.Description) { d.Forms, d.Overrides = c.forms, c.overrides }
				w.enroll = append(w.enroll, stage(func(_ *gateway.Request, g *gateway.Grant) gateway.Verdict {
					g.Subject = held
					return gateway.Allowed("")
				}))
			})
			r := w.request("pump-1")
			held = bytes.ReplaceAll(bytes.Clone(r.Subject), []byte{0x13, 6}, []byte{0x0c, 6}) // UTF8String
			if c.other {
				held = w.request("pump-2").Subject
			}
			w.sign(r)
			if _, err := w.gw.Enroll(t.Context(), r); (err == nil) == c.refused {
				t.Fatal(err)
			}
			if c.refused {
				return
			}
			tr, err := w.store.Transaction(t.Context(), r.ID)
			if err != nil {
				t.Fatal(err)
			}
			want := held
			if c.asked {
				want = r.Subject
			}
			if bytes.Equal(held, r.Subject) || !bytes.Equal(tr.Intent.Template.Subject, want) {
				t.Errorf("subject %q of %q and %q", tr.Intent.Template.Subject, r.Subject, held)
			}
		})
	}
}

// A device is known by a record of ours as long as nobody else has said which one it is.
func TestRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		names func(*gateway.Grant) bool
		want  bool
	}{
		"nobody":                    {func(g *gateway.Grant) bool { return true }, false},
		"a record":                  {func(g *gateway.Grant) bool { return g.NameRecorded("a") }, true},
		"two records":               {func(g *gateway.Grant) bool { g.NameRecorded("a"); return g.NameRecorded("a") }, true},
		"a certificate":             {func(g *gateway.Grant) bool { return g.NameDevice("a") }, false},
		"a record, a certificate":   {func(g *gateway.Grant) bool { return g.NameRecorded("a") && g.NameDevice("a") }, false},
		"a certificate, a record":   {func(g *gateway.Grant) bool { return g.NameDevice("a") && g.NameRecorded("a") }, false},
		"another record":            {func(g *gateway.Grant) bool { return g.NameRecorded("a") && !g.NameRecorded("b") }, false},
		"an entry":                  {func(g *gateway.Grant) bool { return g.Recognise(&gateway.Device{Name: "a"}) }, true},
		"an entry of a certificate": {func(g *gateway.Grant) bool { return g.NameDevice("a") && g.Recognise(&gateway.Device{Name: "a"}) }, false},
	} {
		g := &gateway.Grant{}
		if !c.names(g) || g.Recorded() != c.want {
			t.Errorf("%s: %v, want %v", name, g.Recorded(), c.want)
		}
	}
}
