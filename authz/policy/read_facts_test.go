package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

func TestReadFacts(t *testing.T) {
	want := request()
	bare, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"bare": string(bare), "of explain": fmt.Sprintf(`{"id": "06gz", "state": "issued", "facts": %s}`, bare)} {
		got, err := ReadFacts([]byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v\n%+v", name, err, got)
		}
	}
	for text, want := range map[string]string{
		`{"request": {"subjct": {}}}`:                   "request.subjct: no such field; did you mean subject?",
		`{"requst": {}}`:                                "requst: no such field; did you mean request?",
		`{"request": {"Subject": {}}}`:                  "request.Subject: no such field; did you mean subject?",
		`{"request": {}, "credentials": [{"knd": ""}]}`: "credentials[0].knd: no such field; did you mean kind?",
		`{"facts": {"request": {"key": {"bts": 1}}}}`:   "request.key.bts: no such field; did you mean bits?",
		`{"request": {"key": {"bits": "2048"}}}`:        "request.key.bits wants a whole number, not string",
		`{"request": {"sans": {"dns": "a"}}}`:           "request.sans.dns wants a list, not string",
		`{"request": {}} {}`:                            "something stands behind the JSON value",
		"{\"request\": {},\n x":                         "line 2: not JSON",
		`{"id": "06gz", "state": "refused"}`:            "the transaction has no facts",
		`[]`:                                            "is array, and not one request, as `muster explain ID --json` prints it",
		`{}`:                                            "has no request",
		`null`:                                          "has no request",
		`{"request": null}`:                             "has no request",
		`{"id": "06gz", "state": "issued", "facts": null}`: "has no request",
		" ":                                      "is empty",
		`{"request": {"received": "yesterday"}}`: `request.received wants a time, as in "2027-01-31T12:00:00Z", not "yesterday"`,
		strings.Repeat(" ", MaxFacts+1):          "larger than",
	} {
		_, err := ReadFacts([]byte(text))
		if err == nil {
			t.Errorf("%.60s: read", text)
			continue
		}
		wantText(t, err.Error(), want)
	}
}

// Every field of Facts has a type and a meaning, and nothing has one that is not there.
func TestFields(t *testing.T) {
	known := map[string]bool{}
	for _, g := range Fields() {
		for _, f := range g.Fields {
			path := f.Path
			if g.Name != "variables" {
				path = g.Name + "." + f.Path
			}
			known[path] = true
			if f.Meaning == "" || f.Type == "" {
				t.Errorf("%s: type %q, meaning %q", path, f.Type, f.Meaning)
			}
		}
	}
	for path := range meanings {
		if !known[path] {
			t.Errorf("%s is described, and Facts have none", path)
		}
	}
	for path, typ := range map[string]string{"Request.subject": "Name", "Device.attributes": "map(string, string)", "Request.notAfter": "timestamp", "Key.bits": "int"} {
		group, field, _ := strings.Cut(path, ".")
		for _, g := range Fields() {
			for _, f := range g.Fields {
				if g.Name == group && f.Path == field && f.Type != typ {
					t.Errorf("%s is %s", path, f.Type)
				}
			}
		}
	}
	for field, values := range valuesOf { // the words of a field are told
		for _, v := range values {
			if !known[field] || !strings.Contains(meanings[field], strconv.Quote(v)) {
				t.Errorf("%s may be %q, and is described as %q", field, v, meanings[field])
			}
		}
	}
	mustParse(t, Example)
	for _, v := range variables { // that activation.ResolveName knows
		if _, ok := (activation{&gateway.Facts{}}).ResolveName(v.Name); !ok {
			t.Errorf("%s is not resolved", v.Name)
		}
	}
}

// FuzzParse: whatever stands in a file of rules, it is read or refused with its name.
func FuzzParse(f *testing.F) {
	f.Add([]byte(rulesOfAllKinds))
	f.Add([]byte(one(`request.subjct == "x"`)))
	f.Add([]byte(one("|\n      device.known &&\n        device.knwn")))
	f.Add([]byte(one(`"\x72equest.subjct == 'x'"`)))
	f.Add([]byte(one(`request.sans.dns.exists(a, a.matches("["))`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("policy.yaml", data)
		switch {
		case err != nil && !strings.HasPrefix(err.Error(), "policy.yaml"):
			t.Errorf("%v", err)
		case err == nil:
			p.Judge(t.Context(), request(), func(string) error { return nil })
		}
	})
}
