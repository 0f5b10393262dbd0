package devicefile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/muster-pki/muster/gateway"
)

// read is what a file holds, as the admin API takes it, in JSON.
func read(t *testing.T, text string) (string, error) {
	t.Helper()
	entries, err := Read("f", strings.NewReader(text))
	if err != nil {
		return "", err
	}
	var lines []string
	for _, e := range entries {
		line, err := json.Marshal(e.Wire())
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	return strings.Join(lines, "\n"), nil
}

func TestRead(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"all columns": {
			"name,serial,imei,mac,id:udid,id:tag,vendor,endpoints,profiles,enrollments,not-before,not-after,disabled,password,secret,note,attr:site\n" +
				`bts-1,SN1,49-015420-323751-8,001A2B3C4D5E,0000abcd,T7,acme,ran; core,"a b",3,2026-01-01,2026-12-31,no,"pass word, that is long",hex:0011223344556677,"a ""note"", with all",North` + "\n",
			`{"name":"bts-1","identifiers":[{"kind":"serial","value":"SN1"},{"kind":"imei","value":"490154203237518"},{"kind":"mac","value":"00:1a:2b:3c:4d:5e"},{"kind":"udid","value":"0000ABCD"},{"kind":"tag","value":"T7"}],` +
				`"vendor":"acme","endpoints":["ran","core"],"profiles":["a","b"],"enrollments":3,"not_before":"2026-01-01T00:00:00Z","not_after":"2026-12-31T23:59:59Z","attributes":{"site":"North"},` +
				`"note":"a \"note\", with all","password":"pass word, that is long","secret":"ABEiM0RVZnc="}`,
		},
		"the first identifier names it": {"imei,serial\n,SN1\n490154203237518,SN2\n",
			`{"name":"SN1","identifiers":[{"kind":"serial","value":"SN1"}]}` + "\n" + `{"name":"490154203237518","identifiers":[{"kind":"imei","value":"490154203237518"},{"kind":"serial","value":"SN2"}]}`},
		"as spreadsheets write it": {"\ufeffSerial;CSE_ID;Enrollments;Disabled\r\n SN1 ;C1.in-cse.m2m.example;unlimited;YES\r\n;;;\r\n\r\n",
			`{"name":"SN1","identifiers":[{"kind":"serial","value":"SN1"},{"kind":"cse-id","value":"c1.in-cse.m2m.example"}],"enrollments":"unlimited","disabled":true}`},
		"Excel's separator line":          {"sep=;\nserial;vendor\nSN1;a,b\n", `{"name":"SN1","identifiers":[{"kind":"serial","value":"SN1"}],"vendor":"a,b"}`},
		"tabs":                            {"serial\tnote\nSN1\tx, y; z\n", `{"name":"SN1","identifiers":[{"kind":"serial","value":"SN1"}],"note":"x, y; z"}`},
		"a column twice":                  {"name,serial,serial\na,1,2\nb,3,\n", `{"name":"a","identifiers":[{"kind":"serial","value":"1"},{"kind":"serial","value":"2"}]}` + "\n" + `{"name":"b","identifiers":[{"kind":"serial","value":"3"}]}`},
		"no line end, a time":             {"name,not-after,password-hash\na,2026-05-01T12:00:00+02:00,{sha256}" + strings.Repeat("00", 32), `{"name":"a","not_after":"2026-05-01T10:00:00Z","password_hash":"{sha256}` + strings.Repeat("00", 32) + `"}`},
		"a number that was meant as text": {"serial\n\"4.9E+14\"\n4E12\n", `{"name":"4.9E+14","identifiers":[{"kind":"serial","value":"4.9E+14"}]}` + "\n" + `{"name":"4E12","identifiers":[{"kind":"serial","value":"4E12"}]}`},
		"JSON array": {`[ {"name":"a","serial":["1","2"],"endpoints":["x"],"enrollments":2,"attributes":{"k":"v","n":7},"disabled":false,"note":null},
			{"identifiers":{"mac":"00-1A-2B-3C-4D-5E"},"attr:k":"w","enrollments":"unlimited"} ]`,
			`{"name":"a","identifiers":[{"kind":"serial","value":"1"},{"kind":"serial","value":"2"}],"endpoints":["x"],"enrollments":2,"attributes":{"k":"v","n":"7"}}` + "\n" +
				`{"name":"00:1a:2b:3c:4d:5e","identifiers":[{"kind":"mac","value":"00:1a:2b:3c:4d:5e"}],"enrollments":"unlimited","attributes":{"k":"w"}}`},
		"NDJSON, as the API has it": {"\ufeff\n" + `{"name":"a","identifiers":[{"kind":"serial","value":"1"}],"not_after":"2026-05-01T10:00:00Z","has_secret":true,"has_password":true,"enrolled":3,"password_used":true,"created":"2026-01-01T00:00:00Z"}` + "\r\n" + `{"name":"b {\" [","disabled":true}`,
			`{"name":"a","identifiers":[{"kind":"serial","value":"1"}],"not_after":"2026-05-01T10:00:00Z","has_password":true,"has_secret":true}` + "\n" + `{"name":"b {\" [","disabled":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := read(t, c.text)
			if err != nil {
				t.Fatal(err)
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Each fault is said in words, where it stands, and all of them are.
func TestReadFaults(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, c := range map[string]struct{ text, want string }{
		"an unknown column":                       {"name,imie\na,1\n", `f:1: column 2 "imie": unknown name (did you mean "imei"?); a property of your own is written attr:NAME`},
		"two of them":                             {"name,vender,colour\na,b,c\n", `f:1: column 2 "vender": unknown name (did you mean "vendor"?); a property of your own is written attr:NAME` + "\n" + `f:1: column 3 "colour": unknown name (known: name, vendor, endpoints, profiles, enrollments, not-before, not-after, disabled, password, password-hash, secret, note, has-password, has-secret, serial, imei, udid, mac, cse-id, ae-id, node-id, id:KIND, attr:NAME); a property of your own is written attr:NAME`},
		"no header":                               {"SN0001,acme\nSN0002,acme\n", `f:1: header "SN0001,acme": none of these is a column: the first line names them, e.g. serial,vendor,endpoints`},
		"a column without a name":                 {"name,\na,b\n", "f:1: column 2 has no name"},
		"a column twice":                          {"name,vendor,Vendor\na,b,c\n", `f:1: column 3 "Vendor": column 2 has this name already`},
		"a kind that is none":                     {"name,id:x_y z\na,b\n", `f:1: column 2 "id:x_y z": "x-y z" is no kind of identifier: lower-case letters, digits and hyphens, such as serial, imei, udid, mac, cse-id, ae-id`},
		"an attribute that is none":               {"name,attr:a-b\na,b\n", `f:1: column 2 "attr:a-b": "a-b" is no name of an attribute: letters, digits and underscores, a letter first`},
		"too few values":                          {"name,vendor\na\nb,c\n", "f:2: 1 value, the header names 2 columns"},
		"another separator":                       {"name;vendor\na,b\n", `f:2: 1 value, the header names 2 columns: in the header ';' stands between them, here ','`},
		"the ends of old Macs":                    {"name,serial\ra,1\rb,2\r", "f:1: lines end with CR alone, as old Macs had them: save the file with LF or CRLF"},
		"UTF-16 without a mark":                   {"n\x00a\x00m\x00e\x00\n\x00", "f: this is UTF-16: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"},
		"an archive":                              {"\x1f\x8b\x08\x00", "f: this is a spreadsheet or an archive: save it as CSV"},
		"an old spreadsheet":                      {"\xd0\xcf\x11\xe0\xa1", "f: this is a spreadsheet or an archive: save it as CSV"},
		"a spreadsheet's error":                   {"serial\n#N/A\n", `f:2: serial "#N/A": this is what a spreadsheet shows in the place of a value: mend it there, and export it again`},
		"a spreadsheet's hashes":                  {"name\n########\n", `f:2: name "########": this is what a spreadsheet shows in the place of a value: mend it there, and export it again`},
		"a rounded number in JSON":                {`{"serial":2.1e+15}`, `f:1: serial "2.1e+15": a program has rounded this number: write it as a string`},
		"an entry that is too large":              {"name,attr:a0,attr:a1,attr:a2\na," + strings.Repeat(strings.Repeat("<", 1000)+",", 2) + strings.Repeat("<", 1000) + "\n", "f:2: the device's entry has 18051 bytes as JSON, at most 16384 are taken"},
		"the date of no date":                     {"name,not-after\na,1970-01-01T00:00:00Z\nb,0001-01-01T00:00:00Z\n", `f:2: not-after "1970-01-01T00:00:00Z": ` + gateway.ErrEarlyDate.Error() + "\n" + `f:3: not-after "0001-01-01T00:00:00Z": ` + gateway.ErrEarlyDate.Error()},
		"too many values":                         {"name,vendor\na,b,c\n", "f:2: 3 values, the header names 2 columns: a value with a separator in it is written in quotes"},
		"an open quote":                           {"name,vendor\na,\"b\nc,d\n", "f:2: value 2 begins with a quote, and none ends it on this line"},
		"a quote inside":                          {"name,note\na,19\" rack\n", "f:2: value 2 has a quote in it: write the value in quotes, and that quote twice"},
		"text behind a quote":                     {"name,note\na,\"b\"c\n", "f:2: value 2 goes on behind the quote that ends it"},
		"no name":                                 {"name,vendor\n,acme\n", "f:2: the device has neither a name nor an identifier"},
		"a short IMEI":                            {"imei\n49015420\n", `f:2: imei "49015420": an IMEI has 15 digits (14 without its check digit, 16 with the software version)`},
		"a rounded IMEI":                          {"imei,name\n4.90154E+14,a\n", `f:2: imei "4.90154E+14": an IMEI has 15 digits (14 without its check digit, 16 with the software version)` + "\n" + `f:2: imei "4.90154E+14": a spreadsheet has rounded this number: make the column text there, and export it again`},
		"a rounded serial":                        {"serial\n\"2,10E+12\"\n2.1E+12\n", `f:3: serial "2.1E+12": a spreadsheet has rounded this number: make the column text there, and export it again`},
		"a MAC address":                           {"mac\n00:1a:2b:3c:4d\n", `f:2: mac "00:1a:2b:3c:4d": a MAC address has six pairs of hexadecimal digits, e.g. 00:1a:2b:3c:4d:5e`},
		"enrollments":                             {"name,enrollments\na,many\nb,-1\nc,1.5\n", `f:2: enrollments "many": want a number, or unlimited` + "\n" + `f:3: enrollments "-1": want a number, or unlimited` + "\n" + `f:4: enrollments "1.5": want a number, or unlimited`},
		"a date":                                  {"name,not-after\na,31.12.2026\n", `f:2: not-after "31.12.2026": want a date such as 2027-12-31, or a time such as 2027-12-31T12:00:00Z`},
		"the end before the begin":                {"name,not-before,not-after\na,2026-02-01,2026-01-01\n", "f:2: the entry ends (2026-01-01T23:59:59Z) before it begins (2026-02-01T00:00:00Z)"},
		"disabled":                                {"name,disabled\na,maybe\n", `f:2: disabled "maybe": want yes or no`},
		"a short secret":                          {"name,secret\na,sesame\n", "f:2: secret: a shared secret has 8 to 1024 bytes"},
		"hexadecimal":                             {"name,secret\na,hex:sesameopen\n", "f:2: secret: want hex: and hexadecimal digits"},
		"no hash":                                 {"name,password-hash\na,sesame\n", "f:2: password-hash: want \"{sha256}\" and the SHA-256 of a generated secret in hexadecimal or base64, or an argon2id PHC string ($argon2id$v=19$m=...,t=...,p=...$salt$hash)"},
		"a short password":                        {"name,password\na,sesame\n", "f:2: password: in a file a password is a random one of 20 characters or more: others take long to hash, and stand as password-hash (`muster password`)"},
		"a password to be made":                   {"name,password\na,generate\n", "f:2: password: passwords are made for single devices only: `muster device add --password generate`"},
		"password and hash":                       {"name,password,password-hash\na,sesame-sesame-sesame-,{sha256}" + strings.Repeat("00", 32) + "\n", "f:2: password and password-hash: one of them says it"},
		"a long name":                             {"name\n" + long + "\n", `f:2: name "` + long[:39] + `…": the name has 300 bytes, at most 256 are taken`},
		"control characters":                      {"name,note\na,b\x1b[2J\x07\n", `f:2: note "b\x1b[2J\a": the note has characters that cannot be printed`},
		"not UTF-8":                               {"name,vendor\na,M\xfcller\nb,Meier\n", "f:2: vendor \"M\ufffdller\": this is not UTF-8: save the file as UTF-8"},
		"a header not in UTF-8":                   {"name,ger\xe4t\n", "f:1: this is not UTF-8: save the file as UTF-8"},
		"UTF-16":                                  {"\xff\xfen\x00a\x00", "f: this is UTF-16: save it as UTF-8 (in a spreadsheet: CSV UTF-8)"},
		"a spreadsheet":                           {"PK\x03\x04xl/workbook.xml", "f: this is a spreadsheet or an archive: save it as CSV"},
		"a name twice":                            {"name,serial\na,1\nb,2\na,3\n", `f:4: name "a": line 2 has it already`},
		"a serial twice":                          {"name,serial\na,1\nb,1\nc,1\n", `f:3: serial "1": line 2 has it already` + "\n" + `f:4: serial "1": line 2 has it already`},
		"the same MAC twice":                      {"mac\n00:1a:2b:3c:4d:5e\n001A2B3C4D5E\n", `f:3: mac "00:1a:2b:3c:4d:5e": line 2 has it already`},
		"too many endpoints":                      {"name,endpoints\na," + wordList(33) + "\n", "f:2: 33 endpoints, at most 32 are taken"},
		"too many columns":                        {strings.Repeat("serial,", 256) + "serial\n", "f:1: 257 columns, at most 256 are taken"},
		"Excel's line, with what is no separator": {"sep=x\nname\na\n", `f:1: header "sep=x": none of these is a column: the first line names them, e.g. serial,vendor,endpoints`},
		"twice in one line":                       {`[{"name":"a"},{"name":"b"},{"name":"a"}]`, `f:1: name "a": line 1 has it already`},
		"a serial twice in one":                   {"serial,serial\n1,1\n", `f:2: serial "1" stands twice`},
		"an endpoint twice":                       {"name,endpoints\na,ran ran\n", `f:2: endpoint "ran" stands twice`},
		"a long line":                             {"name,note\na," + strings.Repeat("x", maxLine) + "\nb,\nb,\n", fmt.Sprintf("f:2: the line is longer than %d bytes\n", maxLine) + `f:4: name "b": line 3 has it already`},
		"a key":                                   {`{"name":"a",` + "\n" + `"vendro":"b"}`, `f:2: key "vendro": unknown name (did you mean "vendor"?); a property of your own is written attr:NAME`},
		"a key of JSON's own":                     {`{"name":"a","atributes":{}}`, `f:1: key "atributes": unknown name (did you mean "attributes"?)`},
		"a key twice":                             {`{"name":"a","not_after":"2026-01-01","not-after":"2026-01-01"}`, "f:1: not-after: stands twice in this object"},
		"a value in JSON":                         {"[{\"name\":\"a\"},\n\n{\"name\":\"b\",\n\"imei\":\"7\"}]", `f:4: imei "7": an IMEI has 15 digits (14 without its check digit, 16 with the software version)`},
		"an object for a value":                   {`{"name":{"a":"b"},"serial":"1"}`, "f:1: name: want one value"},
		"a list for a value":                      {`{"name":"a","vendor":["x","y"]}`, "f:1: vendor: want one value"},
		"an identifier":                           {`{"identifiers":["1"]}`, `f:1: identifiers: want [{"kind": "serial", "value": "..."}], or {"serial": "..."}`},
		"a kind in JSON":                          {`{"name":"a","identifiers":{"A B":"1"},"attributes":7}`, `f:1: identifiers.A B: "a b" is no kind of identifier: lower-case letters, digits and hyphens, such as serial, imei, udid, mac, cse-id, ae-id` + "\n" + "f:1: attributes: want an object, name by value"},
		"an attribute twice":                      {`{"name":"a","attributes":{"k":"1","k":"2"}}`, "f:1: attributes.k: stands twice in this object"},
		"cut short":                               {`[{"name":"a"},` + "\n" + `{"name":"b`, "f:2: the object does not end: the file is cut short, or a quote or brace is missing"},
		"an array cut short":                      {`[{"name":"a"}`, "f:1: the array does not end: the file is cut short"},
		"no comma":                                {`[{"name":"a"} {"name":"b"}]`, "f:1: want an object for each device, in an array or one after another; found '{'"},
		"a comma too many":                        {`[{"name":"a"},]`, "f:1: want an object for each device, in an array or one after another; found ']'"},
		"not objects":                             {`["a","b"]`, "f:1: want an object for each device, in an array or one after another; found '\"'"},
		"something behind":                        {`[{"name":"a"}] []`, "f:1: something stands behind the array"},
		"no JSON":                                 {`{"name" "a"}` + "\n" + `{"name":"b"}` + "\n" + `{"name":"b"}`, "f:1: this is not JSON: expected colon after object key\n" + `f:3: name "b": line 2 has it already`},
		"a long object":                           {`{"note":"` + strings.Repeat("x", maxLine) + `"}` + "\n" + `{"name":""}`, fmt.Sprintf("f:1: the object is longer than %d bytes\n", maxLine) + "f:2: the device has neither a name nor an identifier"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := read(t, c.text)
			if err == nil {
				t.Fatal("it is taken")
			}
			if want := c.want + "\nnothing was imported"; err.Error() != want {
				t.Errorf("got\n%s\nwant\n%s", err, want)
			}
			if strings.ContainsAny(err.Error(), "\x1b\r\u202e") {
				t.Errorf("what a stranger wrote reaches the terminal: %q", err)
			}
			if strings.Contains(err.Error(), "sesame") {
				t.Errorf("a secret is shown: %s", err)
			}
		})
	}
}

// wordList is n words.
func wordList(n int) string {
	var words []string
	for i := range n {
		words = append(words, fmt.Sprint("e", i))
	}
	return strings.Join(words, ";")
}

func TestReadOfNothing(t *testing.T) {
	for text, want := range map[string]string{"": "f holds no devices", " \n\t\n": "f holds no devices", "name\n": "f holds no devices", "[]": "f holds no devices"} {
		if _, err := read(t, text); err == nil || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := Read("f", io.MultiReader(strings.NewReader("name\na\n"), iotest.ErrReader(errors.New("a broken disk")))); err == nil || err.Error() != "reading f: a broken disk" {
		t.Error(err)
	}
}

// Fifty faults are shown, the others counted.
func TestReadManyFaults(t *testing.T) {
	_, err := read(t, "name,enrollments\n"+strings.Repeat("a,x\n", 120))
	if err == nil {
		t.Fatal("it is taken")
	}
	// 120 numbers, and 119 names that stand already.
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxFaults+2 || lines[maxFaults] != fmt.Sprintf("... and %d more like these", 239-maxFaults) {
		t.Errorf("%d lines, %s", len(lines), lines[max(0, len(lines)-2)])
	}
}

// endless is a file of devices that goes on.
type endless struct {
	next int
	line func(n int) string
	rest string
}

func (e *endless) Read(p []byte) (int, error) {
	for len(e.rest) < len(p) {
		e.rest += e.line(e.next)
		e.next++
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// What has no end is not read to it.
func TestReadIsBounded(t *testing.T) {
	for name, e := range map[string]*endless{
		"CSV": {rest: "name\n", line: func(n int) string { return fmt.Sprintf("d%d\n", n) }},
		"JSON": {rest: "[", line: func(n int) string {
			return strings.Repeat(",", min(n, 1)) + fmt.Sprintf("{\"name\":\"d%d\"}\n", n)
		}},
	} {
		r := newReader("f")
		r.maxRows = 1000
		_, err := r.entries(e)
		if err == nil || !strings.Contains(err.Error(), "more than 1000 devices: import them in parts") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := newReader("f")
	r.maxBytes = 4 << 20
	blank := strings.Repeat("\n", 4096)
	if _, err := r.entries(&endless{rest: "name\na\n", line: func(int) string { return blank }}); err == nil || err.Error() != "f is larger than 4 MiB: import it in parts" {
		t.Error(err)
	}
}

func TestParseDateEnds(t *testing.T) {
	for in, want := range map[string]string{"2026-12-31": "2026-12-31T23:59:59Z", "2026-12-31T01:00:00.25Z": "2026-12-31T01:00:00.25Z"} {
		if got, err := parseDate(in, true); err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%s: %s %v", in, got, err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	var csv strings.Builder
	csv.WriteString("name,serial,imei,mac,vendor,endpoints,enrollments,not-after,attr:site\n")
	for n := range 100_000 {
		fmt.Fprintf(&csv, "bts-%06d,SN%06d,%015d,00:1a:2b:%02x:%02x:%02x,acme,ran,1,2027-12-31,north\n", n, n, n, n>>16, n>>8&255, n&255)
	}
	b.ReportAllocs()
	for b.Loop() {
		all, err := Read("f", strings.NewReader(csv.String()))
		if err != nil || len(all) != 100_000 {
			b.Fatal(err)
		}
	}
}
