package console

import (
	"bytes"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func upload(t *testing.T, token, name, text string, ticks ...string) (io.Reader, string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	_ = m.WriteField("token", token)
	for _, tick := range ticks {
		_ = m.WriteField(tick, "1")
	}
	f, err := m.CreateFormFile("file", name)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(f, text)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	return &b, m.FormDataContentType()
}

// Devices are imported from a file; what is wrong with it is said line by line.
func TestImport(t *testing.T) {
	w := newWorld(t, nil)
	p := w.signedIn("alice")
	send := func(name, text string, ticks ...string) got {
		body, kind := upload(t, p.token, name, text, ticks...)
		return p.do("POST", "devices/import", kind, body, "Sec-Fetch-Site", "same-origin")
	}
	p.leadsTo(p.get("devices/import/state"), "/console/devices/import")
	p.wants(send("units.csv", "a bad"), http.StatusUnprocessableEntity, `units.csv:2: bad &lt;b&gt;\x1b`)
	p.wants(send("units.csv", "a b", "check"), http.StatusOK, "nothing is wrong with its 2 devices")
	if len(w.source.events) > 0 {
		t.Error(w.source.events)
	}
	p.leadsTo(send("units.csv", "a b c"), "/console/devices/import/state")
	p.wants(p.get("devices/import/state"), http.StatusOK, "imported 3 devices (3 new, 0 replaced)")
	p.leadsTo(send("units.csv", "stands"), "/console/devices/import/state")
	g := p.get("devices/import/state")
	p.wants(g, http.StatusOK, "units.csv:1: device stands stands already")
	p.wants(g, http.StatusOK, "tick replace to put")
	if !slices.Equal(w.source.events, []string{"devices-imported 3 by cert:CN=alice,O=Ops"}) {
		t.Error(w.source.events)
	}

	w.source.slow = make(chan struct{})
	p.leadsTo(send("units.csv", "a b"), "/console/devices/import/state")
	g = p.get("devices/import/state")
	p.wants(g, http.StatusOK, "1 of 2 devices")
	p.wants(g, http.StatusOK, `hx-trigger="every 1s"`)
	p.wants(g, http.StatusOK, `<noscript><meta http-equiv="refresh"`)
	p.wants(send("units.csv", "a b"), http.StatusConflict, "not over yet")
	close(w.source.slow)
	for !strings.Contains(p.get("devices/import/state").body, "imported 2 devices") {
		time.Sleep(time.Millisecond)
	}
	w.sessions.uploading <- struct{}{}
	p.wants(send("units.csv", "a"), http.StatusConflict, "somebody else is sending")
	<-w.sessions.uploading
	p.wants(p.do("POST", "devices/import", "text/csv", strings.NewReader("a"), "Sec-Fetch-Site", "same-origin"), http.StatusUnsupportedMediaType, "a form with a file")
	body, kind := upload(t, p.token, "", "a")
	p.wants(p.do("POST", "devices/import", kind, body, "Sec-Fetch-Site", "same-origin"), http.StatusBadRequest, "choose one")

	// An import that is under way ends with the gateway.
	w.source.slow = make(chan struct{})
	p.leadsTo(send("units.csv", "a b"), "/console/devices/import/state")
	w.sessions.Close()
	p.wants(p.get("devices/import/state"), http.StatusOK, "Nothing was imported")
	p.wants(send("units.csv", "a b"), http.StatusServiceUnavailable, "stopping")
}

// deadlines are those of a connection that were asked for last.
type deadlines struct{ read, write time.Time }

func (d *deadlines) SetReadDeadline(at time.Time) error  { d.read = at; return nil }
func (d *deadlines) SetWriteDeadline(at time.Time) error { d.write = at; return nil }

// A file that comes a byte at a time does not keep others from sending theirs for ever.
func TestSlowUpload(t *testing.T) {
	conn := &deadlines{}
	last := time.Now().Add(uploadIdle / 2)
	if _, err := (steady{strings.NewReader("a"), conn, last}).Read(make([]byte, 1)); err != nil || !conn.read.Equal(last) {
		t.Errorf("%v: %s, want %s", err, conn.read, last)
	}
	if _, err := (steady{strings.NewReader("a"), conn, last.Add(time.Hour)}).Read(make([]byte, 1)); err != nil || conn.read.After(time.Now().Add(uploadIdle)) || !conn.write.After(conn.read) {
		t.Errorf("%v: %s", err, conn.read)
	}
}

// What is too large is refused.
func TestTooLarge(t *testing.T) {
	w := newWorld(t, nil)
	p := w.signedIn("alice")
	p.wants(p.post("deny", url.Values{"reason": {strings.Repeat("x", maxForm)}}), http.StatusRequestEntityTooLarge, "larger than 16384 bytes")
	body, kind := upload(t, p.token, "units.csv", strings.Repeat("abcdefg ", maxUpload/8+4096))
	p.wants(p.do("POST", "devices/import", kind, body, "Sec-Fetch-Site", "same-origin"), http.StatusRequestEntityTooLarge, "larger than 32 MiB")
}
