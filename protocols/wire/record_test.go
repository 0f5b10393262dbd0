package wire_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/wire"
)

// An answer comes in two TLS records at most, and in two only where the first ends with the header: tls.Conn reads one at a
// time, as strongSwan does.
func TestAnswersInRecords(t *testing.T) {
	for _, size := range []int{1, 2048, 2049, 3800, 4096, 5700, 16000} {
		body := bytes.Repeat([]byte("A"), size)
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			x := wire.New(w, r, gateway.EST, time.Now(), slog.New(slog.DiscardHandler))
			x.Write(http.StatusOK, "application/pkcs7-mime", body)
		}))
		s.TLS = &tls.Config{MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
		s.StartTLS()
		defer s.Close()
		c, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: ra\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		record := make([]byte, 1<<15)
		n, err := c.Read(record)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasSuffix(record[:n], []byte("\r\n\r\n")) {
			if n, err = c.Read(record); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasSuffix(record[:n], body) {
			t.Errorf("%d bytes: the last record has %d", size, n)
		}
	}
}
