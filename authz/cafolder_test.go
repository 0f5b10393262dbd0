package authz

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
)

func TestVendorCAFolder(t *testing.T) {
	v := newVendor(t)
	other := newCA(t, "Other Vendor", nil)
	mine, theirs := v.root.issue(2, "bts-1", nil), other.issue(2, "bts-2", nil)
	s := newShop(t, VendorCAConfig{}, nil)
	allow := func(cert *x509.Certificate) { t.Helper(); expect(t, s.decide(cert), gateway.Allow, "") }
	deny := func(cert *x509.Certificate) {
		t.Helper()
		expect(t, s.decide(cert), gateway.Deny, gateway.Untrusted)
	}
	later := func(d time.Duration) { s.clock = s.clock.Add(d) }

	if !strings.Contains(s.log.String(), "no vendor's CA is trusted yet") {
		t.Error("a start without a folder goes without a word")
	}
	deny(mine)
	s.drop("root.pem", pemOf(v.root.cert))
	deny(mine) // the look before counts for a second
	later(watchFresh)
	allow(mine)
	s.drop("other.der", other.cert.Raw)
	s.drop("other.pem", pemOf(other.cert)) // twice is no harm
	s.drop("readme.txt", []byte("not looked at"))
	s.drop(".hidden.pem", []byte("not looked at"))
	later(watchFresh)
	allow(theirs)
	allow(mine)
	if s.warnings("") != 0 {
		t.Error("warned of nothing")
	}

	s.remove("root.pem")
	allow(mine)
	later(watchFresh)
	deny(mine)
	allow(theirs)

	// The same name, size and content come back.
	s.drop("root.pem", pemOf(v.root.cert))
	later(watchFresh)
	allow(mine)

	// A clock that goes back does not keep the old look.
	s.remove("root.pem")
	later(-time.Hour)
	deny(mine)

	// Nothing is left of a folder that goes.
	if err := os.RemoveAll(filepath.Join(s.dir, "vendors")); err != nil {
		t.Fatal(err)
	}
	later(watchFresh)
	deny(theirs)
}

func TestVendorCABrokenFiles(t *testing.T) {
	v := newVendor(t)
	other := newCA(t, "Other Vendor", nil)
	mine, theirs := v.root.issue(2, "bts-1", nil), other.issue(2, "bts-2", nil)
	whole := pemOf(v.root.cert)
	leafKey := newKey(t)
	template := &x509.Certificate{SerialNumber: mine.SerialNumber, Subject: mine.Subject, NotBefore: mine.NotBefore, NotAfter: mine.NotAfter}
	selfSigned := create(t, template, template, leafKey.Public(), leafKey)
	for name, c := range map[string]struct {
		content []byte
		why     string
	}{
		"empty":                  {nil, "it is empty"},
		"half written":           {whole[:len(whole)/2], "broken PEM"},
		"one whole, one half":    {append(bytes.Clone(whole), whole[:100]...), "broken PEM"},
		"half written DER":       {v.root.cert.Raw[:100], "x509"},
		"a self-signed device":   {pemOf(selfSigned), "is not a CA's certificate"},
		"a device and its CA":    {pemOf(mine, v.root.cert), "is not a CA's certificate"},
		"a private key":          {[]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "PRIVATE KEY"},
		"larger than any CA has": {bytes.Repeat([]byte{'\n'}, maxFolderFile+1), "1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, VendorCAConfig{}, func(dir string) {
				dropFile(t, dir, "a-broken.pem", c.content, noon.AddDate(0, 0, -1))
				dropFile(t, dir, "other.pem", pemOf(other.cert), noon.AddDate(0, 0, -1))
			})
			for range 3 {
				expect(t, s.decide(mine), gateway.Deny, gateway.Untrusted)
				expect(t, s.decide(selfSigned), gateway.Deny, gateway.Untrusted)
				expect(t, s.decide(theirs), gateway.Allow, "")
				s.clock = s.clock.Add(watchFresh)
			}
			if log := s.log.String(); !strings.Contains(log, c.why) || !strings.Contains(log, "a-broken.pem") || strings.Count(log, "\n") != 1 {
				t.Errorf("log %s", log)
			}
			// Written to its end it counts.
			s.drop("a-broken.pem", whole)
			s.clock = s.clock.Add(watchFresh)
			expect(t, s.decide(mine), gateway.Allow, "")
			// Broken again, it is said again.
			s.log.Reset()
			s.drop("a-broken.pem", c.content)
			s.clock = s.clock.Add(watchFresh)
			expect(t, s.decide(mine), gateway.Deny, gateway.Untrusted)
			if n := s.warnings("a-broken.pem"); n != 1 {
				t.Errorf("%d warnings", n)
			}
		})
	}
	t.Run("a folder of that name, a link to nowhere", func(t *testing.T) {
		s := newShop(t, VendorCAConfig{}, func(dir string) {
			if err := os.MkdirAll(filepath.Join(dir, "vendors", "folder.pem"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("nowhere", filepath.Join(dir, "vendors", "link.pem")); err != nil {
				t.Fatal(err)
			}
			// What is no file is not opened: a pipe would wait for its other end.
			if err := os.Symlink(os.DevNull, filepath.Join(dir, "vendors", "null.pem")); err != nil {
				t.Fatal(err)
			}
			dropFile(t, dir, "other.pem", pemOf(other.cert), noon)
		})
		expect(t, s.decide(theirs), gateway.Allow, "")
		if n := s.warnings("it is not a file"); n != 2 {
			t.Errorf("%d warnings", n)
		}
	})
}

// A file is read again when its size or time says so, and while it is too young for either to be believed.
func TestVendorCAReadsWhatChanged(t *testing.T) {
	v := newVendor(t)
	first, second := newCA(t, "Vendor One", nil), newCA(t, "Vendor Two", nil)
	mine, theirs := first.issue(2, "bts-1", nil), second.issue(2, "bts-2", nil)
	pad := func(ca *authority) []byte {
		b := pemOf(ca.cert)
		return append(b, bytes.Repeat([]byte{'\n'}, 2000-len(b))...)
	}
	old := noon.AddDate(0, 0, -1)
	s := newShop(t, VendorCAConfig{}, func(dir string) { dropFile(t, dir, "ca.pem", pad(first), old) })
	expect(t, s.decide(mine), gateway.Allow, "")
	// Neither size nor time show a change: the file is at rest, and not read again.
	dropFile(t, s.dir, "ca.pem", pad(second), old)
	s.clock = s.clock.Add(watchFresh)
	expect(t, s.decide(mine), gateway.Allow, "")
	dropFile(t, s.dir, "ca.pem", pad(second), old.Add(time.Nanosecond))
	s.clock = s.clock.Add(watchFresh)
	expect(t, s.decide(theirs), gateway.Allow, "")
	expect(t, s.decide(mine), gateway.Deny, gateway.Untrusted)
	// Young files are read, whatever they look like.
	young := s.clock
	dropFile(t, s.dir, "ca.pem", pad(first), young)
	s.clock = s.clock.Add(watchFresh)
	expect(t, s.decide(mine), gateway.Allow, "")
	dropFile(t, s.dir, "ca.pem", pad(second), young)
	s.clock = s.clock.Add(watchFresh)
	expect(t, s.decide(theirs), gateway.Allow, "")
	expect(t, s.decide(v.root.issue(9, "x", nil)), gateway.Deny, gateway.Untrusted)
}

// A folder that cannot be read lets nobody in: a CA might have been taken out.
func TestVendorCAFolderUnreadable(t *testing.T) {
	v := newVendor(t)
	mine := v.root.issue(2, "bts-1", nil)
	s := newShop(t, VendorCAConfig{}, func(dir string) {
		dropFile(t, dir, "root.pem", pemOf(v.root.cert), noon)
		dropFile(t, dir, "broken.pem", []byte("broken"), noon)
	})
	expect(t, s.decide(mine), gateway.Allow, "")
	if n := s.warnings("broken.pem"); n != 1 {
		t.Errorf("%d warnings of a broken file", n)
	}
	folder := filepath.Join(s.dir, "vendors")
	if err := os.Rename(folder, folder+"-moved"); err != nil {
		t.Fatal(err)
	}
	write(t, s.dir, "vendors", nil) // a file in the folder's place cannot be listed, by root neither
	s.clock = s.clock.Add(watchFresh)
	for range 3 {
		expect(t, s.decide(mine), gateway.CannotAnswer, gateway.Unavailable, "folder of trusted CAs")
		expect(t, s.Decide(context.Background(), &gateway.Request{}, &gateway.Grant{}), gateway.Deny, gateway.Unauthenticated)
		s.clock = s.clock.Add(watchFresh)
	}
	if n := s.warnings("cannot be read"); n != 1 {
		t.Errorf("%d warnings", n)
	}
	if _, err := NewVendorCA(VendorCAConfig{Dir: "vendors"}, s.dir, quiet(), atNoon); err == nil {
		t.Error("a stage is made whose folder is a file")
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(folder+"-moved", folder); err != nil {
		t.Fatal(err)
	}
	s.clock = s.clock.Add(watchFresh)
	expect(t, s.decide(mine), gateway.Allow, "")
	if n := s.warnings("broken.pem"); n != 0 {
		t.Error("warned of the same file again")
	}
	for i := range maxFolder + 1 {
		write(t, folder, fmt.Sprint(i, ".pem"), nil)
	}
	s.clock = s.clock.Add(watchFresh)
	expect(t, s.decide(mine), gateway.CannotAnswer, gateway.Unavailable, "more than 1000")
}

// While one request looks, others go by the look before: as long as it is not stale.
func TestVendorCAReadersDoNotWait(t *testing.T) {
	v := newVendor(t)
	mine := v.root.issue(2, "bts-1", nil)
	s := newShop(t, VendorCAConfig{}, func(dir string) { dropFile(t, dir, "root.pem", pemOf(v.root.cert), noon) })
	s.folder.turn <- struct{}{} // somebody looks, and does not come back
	s.clock = noon.Add(watchStale - 1)
	expect(t, s.decide(mine), gateway.Allow, "")
	s.clock = noon.Add(watchStale)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	r := &gateway.Request{Credentials: []gateway.Credential{credential(gateway.CredentialSigner, mine)}}
	expect(t, s.Decide(ctx, r, &gateway.Grant{}), gateway.CannotAnswer, gateway.Unavailable, "nobody could look in time")
	// The one who waited finds the look of the one who looked.
	done := make(chan gateway.Verdict)
	go func() { done <- s.decide(mine) }()
	<-s.folder.turn
	expect(t, <-done, gateway.Allow, "")
}

func TestVendorCAConcurrently(t *testing.T) {
	v := newVendor(t)
	mine := v.root.issue(2, "bts-1", nil)
	dir := t.TempDir()
	dropFile(t, dir, "root.pem", pemOf(v.root.cert), noon)
	var mu sync.Mutex
	clock := noon
	s, err := NewVendorCA(VendorCAConfig{Dir: "vendors"}, dir, quiet(), func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		clock = clock.Add(50 * time.Millisecond)
		return clock
	})
	if err != nil {
		t.Fatal(err)
	}
	other := pemOf(newCA(t, "Other", nil).cert)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 50 {
				if i == 0 {
					dropFile(t, dir, "other.pem", other[:len(other)*(n%2+1)/2], noon)
				}
				r := &gateway.Request{Credentials: []gateway.Credential{credential(gateway.CredentialSigner, mine)}}
				if v := s.Decide(context.Background(), r, &gateway.Grant{}); v.Decision != gateway.Allow {
					t.Errorf("%s: %s", v.Decision, v.Note)
					return
				}
			}
		})
	}
	group.Wait()
}
