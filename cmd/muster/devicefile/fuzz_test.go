package devicefile

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway/admin"
)

// FuzzRead: what is taken is checked, unique, and read again from what export writes of it.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		"name,serial\na,1\n", "serial;imei;note\nx;490154203237518;\"q \"\"q\"\"\"\n", "\ufeffname\tattr:k\na\tv\n",
		`[{"name":"a","identifiers":{"mac":"001A2B3C4D5E"},"attributes":{"k":"v"}}]`, `{"name":"a"}` + "\n" + `{"name":"b","enrollments":"unlimited"}`,
		"sep=;\nname;not-after;enrollments\na;2026-01-01;3\n", "name,secret,password\na,hex:0011223344556677,p\n", "[", "{", `{"name":"\ud800"}`, "name,name\n\"",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := Read("f", strings.NewReader(text))
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x1b\r\x00") {
				t.Errorf("%q", err)
			}
			return
		}
		var all []admin.Device
		for _, e := range entries {
			if err := e.Check(); err != nil {
				t.Fatalf("%v", err)
			}
			d := e.Wire()
			d.Password, d.PasswordHash, d.Secret = "", "", nil
			all = append(all, d)
		}
		again(t, "JSON", all, WriteJSON)
		for _, d := range all {
			for _, s := range append(d.Endpoints, d.Profiles...) {
				if strings.ContainsAny(s, "; ") {
					return // which CSV cannot carry
				}
			}
		}
		again(t, "CSV", all, WriteCSV)
	})
}
