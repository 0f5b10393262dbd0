package authz

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func TestParseSerials(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string // the serial numbers, in order, or the error that begins so
	}{
		"one a line":         {"SN1\nSN2\n", "SN1 SN2"},
		"without last end":   {"SN1\nSN2", "SN1 SN2"},
		"Windows":            {"\ufeffSN1\r\nSN2\r\n", "SN1 SN2"},
		"space and comments": {"# of March\n\n  SN1  \n\t\n#SN3\nSN2", "SN1 SN2"},
		"twice":              {"SN1\nSN1\n", "SN1"},
		"commas":             {"SN1,red,2026\nSN2,blue,2026", "SN1 SN2"},
		"semicolons":         {"SN1;red\nSN2 ;blue", "SN1 SN2"},
		"tabs":               {"SN1\tred\nSN2\tblue", "SN1 SN2"},
		"header":             {"Serial Number,Colour\nSN1,red", "SN1"},
		"header alone":       {"serial_number\nSN1", "SN1"},
		"quoted header":      {"\"Serial-No.\";x\nSN1;y", "SN1"},
		"no second header":   {"serial\nserial\nSN1", "SN1 serial"},
		"quoted":             {`"SN,1",red` + "\n" + `"SN ""2""",blue` + "\n" + `SN3,"19"" rack"`, `SN "2" SN,1 SN3`},
		"quoted alone":       {`"SN1"`, "SN1"},
		"a comma last":       {"SN1,\n", "SN1"},

		"empty":               {"", "1: the file holds no serial number"},
		"comments only":       {"# nothing\n", "1: the file holds no serial number"},
		"a header only":       {"serial\n", "1: the file holds no serial number"},
		"no first column":     {"SN1,a\n,b\n", "2: the first column is empty"},
		"empty in quotes":     {"\"\",b\n", "1: the first column is empty"},
		"open quotation mark": {"SN1\n\"SN2,b\nc\"\n", "2: a quotation mark is not closed"},
		"behind a quotation":  {"\"SN1\"x,b\n", "1: something stands behind"},
		"not UTF-8":           {"SN1\nSN\xff\n", "2: it is not UTF-8"},
		"UTF-16":              {"\xff\xfeS\x00N\x001\x00", "1: it is not UTF-8"},
		"another column":      {"model;Serial Number\nX;SN1\n", "1: the column \"Serial Number\" is not the first one"},
		"another column's":    {"SN1,name\nSN2,id\n", "SN1 SN2"},
		"unprintable":         {"SN\x011\n", "1: the serial number has control"},
		"too long":            {strings.Repeat("x", 257) + "\n", "1: the serial number has 257 bytes"},
		"too many":            {"a\nb\nc\nd\n", "4: more than 3 serial numbers"},
		"a line too long":     {"SN1\nSN2," + strings.Repeat("x", maxListLine) + "\n", "2: the line is longer"},
	} {
		got, err := parseSerials(strings.NewReader(c.text), 3)
		if err != nil {
			if !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var list []string
		for s := range got {
			list = append(list, s)
		}
		slices.Sort(list)
		if s := strings.Join(list, " "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
	}
}

func FuzzParseSerials(f *testing.F) {
	for _, s := range []string{"SN1\nSN2\n", "serial;x\n\"SN,1\";y\n", "\"\"\"\"\n", "#\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseSerials(strings.NewReader(s), 100)
		if err == nil && len(got) == 0 {
			t.Fatal("neither list nor error")
		}
		for serial := range got {
			if serial == "" || len(serial) > gateway.MaxDeviceName || !printable(serial) || serial != strings.TrimSpace(serial) {
				t.Fatalf("%q", serial)
			}
		}
	})
}

// A million serial numbers are read in seconds, and take memory for themselves only.
func TestParseAMillionSerials(t *testing.T) {
	var b strings.Builder
	for i := range 1_000_000 {
		fmt.Fprintf(&b, "SN%08d,some further column\n", i)
	}
	text := b.String()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	got, err := parseSerials(strings.NewReader(text), maxListSerial)
	if err != nil || len(got) != 1_000_000 {
		t.Fatalf("%d, %v", len(got), err)
	}
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(got)
	memory := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("1,000,000 serial numbers in %v, %d MB", took, memory>>20)
	if memory > 150<<20 { // the columns behind are not kept
		t.Errorf("%d MB", memory>>20)
	}
}

// dropList writes the list, as old as the day before unless it is to be fresh.
func (s *shop) dropList(text string, modified time.Time) { dropList(s.t, s.dir, text, modified) }

func dropList(t *testing.T, dir, text string, modified time.Time) {
	t.Helper()
	path := write(t, dir, "list.csv", []byte(text))
	if err := os.Chtimes(path, modified, modified); err != nil {
		t.Fatal(err)
	}
}

func listConfig() VendorCAConfig {
	return VendorCAConfig{CAs: []string{"root.pem"}, Intermediates: []string{"issuing.pem"}, Serial: "subject.serialNumber", List: "list.csv"}
}

func TestVendorList(t *testing.T) {
	v := newVendor(t)
	good, other := v.issuing.issue(2, "bts-1", nil), v.issuing.issue(3, "bts-2", nil)
	yesterday := noon.AddDate(0, 0, -1)
	prepare := func(dir string) {
		write(t, dir, "root.pem", pemOf(v.root.cert))
		write(t, dir, "issuing.pem", pemOf(v.issuing.cert))
		dropList(t, dir, "serial\nSN-bts-1\n", yesterday)
	}
	for name, c := range map[string]struct {
		change func(*VendorCAConfig)
		op     gateway.Operation
		cert   *x509.Certificate
		vendor string // that an earlier stage found
		denied string // what the client is told
		note   string
		key    string // of the claim; "" for none
		limit  int64
		is     string // the vendor
	}{
		"listed":                    {cert: good, key: "vendor-serial:" + gateway.Fingerprint(v.root.cert) + ":SN-bts-1", limit: 1, note: "on the vendor's list"},
		"not listed":                {cert: other, denied: "the device is not on the vendor's list", note: `serial number "SN-bts-2" is not among the 1`},
		"not listed, for a renewal": {cert: other, op: gateway.Renew, denied: "the device is not on the vendor's list"},
		"a renewal does not count":  {cert: good, op: gateway.Renew},
		"three times":               {change: func(c *VendorCAConfig) { c.Enrollments = 3 }, cert: good, key: "vendor-serial:" + gateway.Fingerprint(v.root.cert) + ":SN-bts-1", limit: 3},
		"any number of times":       {change: func(c *VendorCAConfig) { c.Enrollments = Unlimited }, cert: good},
		"a vendor":                  {change: func(c *VendorCAConfig) { c.Vendor = "ACME" }, cert: good, key: `vendor-serial:"ACME":SN-bts-1`, limit: 1, is: "ACME", note: `vendor "ACME"`},
		"the same vendor before":    {change: func(c *VendorCAConfig) { c.Vendor = "ACME" }, cert: good, vendor: "ACME", key: `vendor-serial:"ACME":SN-bts-1`, limit: 1, is: "ACME"},
		"another vendor before":     {change: func(c *VendorCAConfig) { c.Vendor = "ACME" }, cert: good, vendor: "Other", denied: "the credentials name two vendors", note: `vendor "Other"'s`},
		"no list, no count":         {change: func(c *VendorCAConfig) { c.List = "" }, cert: other},
		"no list, a count":          {change: func(c *VendorCAConfig) { c.List, c.Enrollments = "", 2 }, cert: other, key: "vendor-serial:" + gateway.Fingerprint(v.root.cert) + ":SN-bts-2", limit: 2},
	} {
		t.Run(name, func(t *testing.T) {
			config := listConfig()
			if c.change != nil {
				c.change(&config)
			}
			if c.op == "" {
				c.op = gateway.Enroll
			}
			s := newShop(t, config, prepare)
			r := &gateway.Request{Operation: c.op, Credentials: []gateway.Credential{credential(gateway.CredentialSigner, c.cert)}}
			g := &gateway.Grant{Vendor: c.vendor}
			v := s.Decide(context.Background(), r, g)
			if c.denied != "" {
				expect(t, v, gateway.Deny, gateway.NotAuthorized, c.note)
				if v.Detail != c.denied || len(v.Claims) != 0 || g.Requester == "" || g.Device == "" {
					t.Errorf("the client is told %q; claims %v, grant %+v", v.Detail, v.Claims, g)
				}
				return
			}
			expect(t, v, gateway.Allow, "", c.note)
			if g.Vendor != c.is {
				t.Errorf("vendor %q", g.Vendor)
			}
			if c.key == "" {
				if len(v.Claims) != 0 {
					t.Errorf("claims %+v", v.Claims)
				}
			} else if len(v.Claims) != 1 || v.Claims[0].Key != c.key || v.Claims[0].Limit != c.limit || v.Claims[0].Reason != gateway.NotAuthorized || v.Claims[0].Detail == "" || v.Claims[0].Lost == "" {
				t.Errorf("claims %+v", v.Claims)
			}
		})
	}
}

// What changes in the file counts within two seconds; what is no list changes nothing, and is said once.
func TestVendorListChanges(t *testing.T) {
	v := newVendor(t)
	one, two := v.issuing.issue(2, "bts-1", nil), v.issuing.issue(3, "bts-2", nil)
	yesterday := noon.AddDate(0, 0, -1)
	s := newShop(t, listConfig(), func(dir string) {
		write(t, dir, "root.pem", pemOf(v.root.cert))
		write(t, dir, "issuing.pem", pemOf(v.issuing.cert))
		dropList(t, dir, "SN-bts-1\n", yesterday)
	})
	lets := func(what string, first, second bool) {
		t.Helper()
		if got := s.decide(one).Decision == gateway.Allow; got != first {
			t.Errorf("%s: the first is let in: %v", what, got)
		}
		if got := s.decide(two).Decision == gateway.Allow; got != second {
			t.Errorf("%s: the second is let in: %v", what, got)
		}
	}
	later := func() { s.clock = s.clock.Add(watchFresh) }
	lets("as it was", true, false)
	s.dropList("SN-bts-2\n", yesterday.Add(time.Second))
	lets("within a second", true, false)
	later()
	lets("another one", false, true)
	if s.warnings("") != 0 {
		t.Error("warned of a good list")
	}

	s.dropList("SN-bts-1\n\"\n", yesterday.Add(2*time.Second))
	for range 3 {
		later()
		lets("a bad one", false, true)
	}
	if n := s.warnings("list.csv:2: a quotation mark"); n != 1 {
		t.Errorf("warned %d times of a bad list", n)
	}
	if err := os.Remove(filepath.Join(s.dir, "list.csv")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		later()
		lets("none", false, true)
	}
	if n := s.warnings("no such file"); n != 1 {
		t.Errorf("warned %d times of a missing list", n)
	}
	s.dropList("SN-bts-1\nSN-bts-2\n", yesterday.Add(3*time.Second))
	later()
	lets("it is back", true, true)

	// The same size and time say nothing while a file is still being written.
	s.clock = noon.Add(time.Hour)
	s.dropList("SN-bts-1\nSN-bts-2\n", s.clock)
	lets("fresh", true, true)
	s.dropList("SN-bts-1\nSN-bts-3\n", s.clock)
	later()
	lets("changed under the same time", true, false)
	s.clock = s.clock.Add(2 * watchStale)
	lets("at rest", true, false)
	if s.warnings("") != 0 {
		t.Error("warned of a good list")
	}
}

func TestVendorListErrors(t *testing.T) {
	v := newVendor(t)
	write(t, v.dir, "bad.csv", []byte("SN1\n\"\n"))
	write(t, v.dir, "empty.csv", nil)
	if err := os.Truncate(write(t, v.dir, "huge.csv", []byte("SN1\n")), maxListSize+1); err != nil { // takes no space
		t.Fatal(err)
	}
	for want, change := range map[string]func(*VendorCAConfig){
		"list: open ":                    func(c *VendorCAConfig) { c.List = "absent.csv" },
		"bad.csv:2: a quotation mark":    func(c *VendorCAConfig) { c.List = "bad.csv" },
		"empty.csv:1: the file holds no": func(c *VendorCAConfig) { c.List = "empty.csv" },
		"huge.csv is larger than":        func(c *VendorCAConfig) { c.List = "huge.csv" },
		"is not a file":                  func(c *VendorCAConfig) { c.List = "." },
		"say by `serial`":                func(c *VendorCAConfig) { c.List, c.Serial = "bad.csv", "" },
		"list and enrollments are about": func(c *VendorCAConfig) { c.List, c.Serial, c.Enrollments = "", "", 2 },
		"vendor: at most":                func(c *VendorCAConfig) { c.List, c.Vendor = "", "a\x00" },
	} {
		c := VendorCAConfig{CAs: []string{"root.pem"}, Serial: "subject.serialNumber"}
		change(&c)
		_, err := NewVendorCA(c, v.dir, quiet(), atNoon)
		wantError(t, err, want)
	}
}

// A named pipe at the list's place is no list, and holds nobody up. The list before counts on.
func TestVendorListIsAPipe(t *testing.T) {
	dir, now := t.TempDir(), noon
	path := write(t, dir, "list.csv", []byte("SN1\n"))
	l := newSerialList(path, quiet(), func() time.Time { return now })
	if _, err := l.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	looked := make(chan error, 1)
	go func() {
		look, err := l.look(context.Background())
		if err == nil && len(look.serials) != 1 {
			err = fmt.Errorf("%d serial numbers", len(look.serials))
		}
		looked <- err
	}()
	select {
	case err := <-looked:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second): // only a fault waits for it
		t.Fatal("a look at a pipe does not end")
	}
}
