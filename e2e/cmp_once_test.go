package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	x509pkix "crypto/x509/pkix"

	"github.com/muster-pki/muster/backends/local"
	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// signedBy makes the device sign its messages with a key of its own and a self-signed certificate.
func (d *cmpDevice) signedBy(name string) {
	d.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: x509pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, SubjectKeyId: random(20),
	}, &x509.Certificate{Subject: x509pkix.Name{CommonName: name}}, key.Public(), key)
	if err != nil {
		d.t.Fatal(err)
	}
	d.signer, d.chain = key, [][]byte{der}
}

// What no good client sends: each is refused with its failInfo, and nothing is issued for it.
func TestCMPMessagesRefused(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "message\tfailInfo")
	tamper := func(der []byte, from, to string) []byte {
		changed := bytes.Replace(der, []byte(from), []byte(to), 1)
		if bytes.Equal(changed, der) {
			t.Fatalf("nothing to tamper with: %q", from)
		}
		return changed
	}
	for i, c := range []struct {
		name string
		want string // failInfo
		send func(d *cmpDevice, name string) ([]byte, error)
		left int // certificates for the name afterwards
	}{
		{"tampered body", "badMessageCheck", func(d *cmpDevice, name string) ([]byte, error) {
			return d.post(tamper(d.message(d.request(cmpmsg.TypeIR)), name, "X"+name[1:]))
		}, 0},
		{"wrong proof of possession", "badPOP", func(d *cmpDevice, name string) ([]byte, error) {
			body := d.request(cmpmsg.TypeIR)
			other := *d
			other.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			body.Messages[0].POP = other.request(cmpmsg.TypeIR).Messages[0].POP
			return d.post(d.message(body))
		}, 0},
		{"another message under an open transactionID", "transactionIdInUse", func(d *cmpDevice, name string) ([]byte, error) {
			if _, err := d.exchange(d.request(cmpmsg.TypeIR)); err != nil {
				return nil, err
			}
			d.peer = nil
			return d.post(d.message(d.request(cmpmsg.TypeIR)))
		}, 1},
		{"MAC, then a signature", "wrongIntegrity", func(d *cmpDevice, name string) ([]byte, error) {
			if _, err := d.exchange(d.request(cmpmsg.TypeIR)); err != nil {
				return nil, err
			}
			d.signedBy(name)
			return d.post(d.message(d.certConf()))
		}, 1},
		{"certConf by another device", "notAuthorized", func(d *cmpDevice, name string) ([]byte, error) {
			g.muster("secret", "add", "--endpoint", "cmp", "--reference", "other", "--device", "other", "--secret-file", secretFile(t, "another secret of 24 bytes"))
			if _, err := d.exchange(d.request(cmpmsg.TypeIR)); err != nil {
				return nil, err
			}
			d.ref, d.secret = "other", []byte("another secret of 24 bytes")
			return d.post(d.message(d.certConf()))
		}, 1},
		{"certConf with another nonce", "badRecipientNonce", func(d *cmpDevice, name string) ([]byte, error) {
			if _, err := d.exchange(d.request(cmpmsg.TypeIR)); err != nil {
				return nil, err
			}
			d.peer = random(16)
			return d.post(d.message(d.certConf()))
		}, 1},
		{"certConf of nothing", "badRequest", func(d *cmpDevice, name string) ([]byte, error) {
			d.cert = &x509.Certificate{Raw: []byte("none")}
			d.peer = random(16)
			return d.post(d.message(d.certConf()))
		}, 0},
		{"certConf with another hash", "badCertId", func(d *cmpDevice, name string) ([]byte, error) {
			if _, err := d.exchange(d.request(cmpmsg.TypeIR)); err != nil {
				return nil, err
			}
			conf := d.certConf()
			conf.Statuses[0].CertHash = random(32)
			return d.post(d.message(conf))
		}, 1},
		{"first message with recipNonce", "badRecipientNonce", func(d *cmpDevice, name string) ([]byte, error) {
			d.peer = random(16)
			return d.post(d.message(d.request(cmpmsg.TypeIR)))
		}, 0},
		{"two requests in one message", "badRequest", func(d *cmpDevice, name string) ([]byte, error) {
			body := d.request(cmpmsg.TypeIR)
			body.Messages = append(body.Messages, body.Messages[0])
			return d.post(d.message(body))
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := fmt.Sprintf("message-%d", i)
			d := g.cmpDevice(name)
			answer, err := c.send(d, name)
			if err != nil {
				t.Fatal(err)
			}
			m, err := cmpmsg.Parse(answer)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(w, "%s\t%s\n", c.name, failure(m))
			if got := failure(m); got != c.want {
				t.Errorf("answered %s %q, want %s", m.Body.Type(), got, c.want)
			}
			if m.Header.ProtectionAlg == nil || !bytes.Equal(m.Header.TransactionID, d.tid) || !bytes.Equal(m.Header.RecipNonce, d.nonce) {
				t.Errorf("the answer is not protected, or not one to this message: %+v", m.Header)
			}
			if n := len(g.ledger(name)); n != c.left {
				t.Errorf("%d in the ledger, want %d", n, c.left)
			}
		})
	}
	w.Flush()
	t.Logf("\n%s", table.String())
}

func secretFile(t *testing.T, secret string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A device with a secret of its own, which the store keeps sealed.
func TestCMPDeviceSecret(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	const secret = "a secret of this device only"
	g.muster("secret", "add", "--endpoint", "cmp", "--reference", "dev-7", "--device", "seven", "--secret-file", secretFile(t, secret))
	d := g.cmpDevice("own-secret")
	d.ref, d.secret = "dev-7", []byte(secret)
	if err := d.enroll(); err != nil {
		t.Fatal(err)
	}
	if all := g.transactions("own-secret"); len(all) != 1 || all[0].Device != "seven" {
		t.Errorf("%+v", all)
	}
	for _, file := range []string{"muster.db", "muster.db-wal"} {
		if data, err := os.ReadFile(filepath.Join(g.dir, file)); err == nil && bytes.Contains(data, []byte(secret)) {
			t.Errorf("the secret stands in %s", file)
		}
	}
	g.muster("secret", "rm", "--endpoint", "cmp", "--reference", "dev-7")
	again := g.cmpDevice("own-secret")
	again.ref, again.secret = d.ref, d.secret
	if err := again.enroll(); err == nil || !strings.Contains(err.Error(), "badMessageCheck") {
		t.Errorf("with a secret that was taken away: %v", err)
	}
}

// Every message sent again, byte for byte: the same answer, byte for byte, over a restart too; one certificate.
func TestCMPRepeats(t *testing.T) {
	g := startIn(t, filepath.Join(t.TempDir(), "data"))
	d := g.cmpDevice("repeats")
	same := func(what string, message, answer []byte) {
		t.Helper()
		again, err := d.post(message)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, answer) {
			m, _ := cmpmsg.Parse(again)
			t.Errorf("%s sent again is answered otherwise: %s %s", what, m.Body.Type(), failure(m))
		}
	}
	ir := d.message(d.request(cmpmsg.TypeIR))
	ip, err := d.post(ir)
	if err != nil {
		t.Fatal(err)
	}
	same("ir", ir, ip)
	g.stop()
	g = startIn(t, g.dir)
	d.url = g.env["MUSTER_HTTP"] + "/.well-known/cmp"
	same("ir after a restart", ir, ip)
	if _, err := d.take(ip); err != nil {
		t.Fatal(err)
	}
	conf := d.message(d.certConf())
	pkiConf, err := d.post(conf)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := d.take(pkiConf); err != nil || m.Body.Type() != cmpmsg.TypePKIConf {
		t.Fatalf("%v, %v", m, err)
	}
	same("certConf", conf, pkiConf)
	g.stop()
	g = startIn(t, g.dir)
	d.url = g.env["MUSTER_HTTP"] + "/.well-known/cmp"
	same("certConf after a restart", conf, pkiConf)
	same("ir after the end", ir, ip)
	if m, err := d.exchange(d.certConf()); err != nil || failure(m) != "certConfirmed" {
		t.Errorf("another certConf: %v %v", failure(m), err)
	}
	if n, s := len(g.ledger("repeats")), g.state("repeats"); n != 1 || s != "issued" {
		t.Errorf("%d in the ledger, %s", n, s)
	}
}

// The gateway or the CA is killed at each named point; the device sends the same bytes again.
func TestCMPCrashPoints(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	startIn(t, dir).stop()
	points := append(append([]string(nil), gateway.CrashPoints...), gateway.CrashAfterConclude)
	for i, point := range append(points, local.CrashPoints...) {
		t.Run(point, func(t *testing.T) {
			name := fmt.Sprintf("cmp-crash-%d", i)
			once := filepath.Join(t.TempDir(), "once")
			g := startIn(t, dir, "MUSTER_CRASH_AT="+point, "MUSTER_CRASH_ONCE="+once)
			d := g.cmpDevice(name)
			// send is what a device does: the same bytes until it has an answer.
			send := func(der []byte) *cmpmsg.Message {
				t.Helper()
				for range 20 {
					answer, err := d.post(der)
					if err != nil {
						if strings.HasPrefix(point, "gateway.") {
							<-g.exited
						}
						g.stop()
						g = startIn(t, dir)
						d.url = g.env["MUSTER_HTTP"] + "/.well-known/cmp"
						continue
					}
					m, err := d.take(answer)
					if err != nil {
						t.Fatal(err)
					}
					if rep, ok := m.Body.(*cmpmsg.CertRepMessage); ok && rep.Responses[0].Status.Status == cmpmsg.StatusWaiting {
						time.Sleep(100 * time.Millisecond)
						continue
					}
					return m
				}
				t.Fatal("no answer")
				return nil
			}
			if m := send(d.message(d.request(cmpmsg.TypeIR))); d.cert == nil {
				t.Fatalf("%s %s", m.Body.Type(), failure(m))
			}
			if m := send(d.message(d.certConf())); m.Body.Type() != cmpmsg.TypePKIConf {
				t.Fatalf("%s %s", m.Body.Type(), failure(m))
			}
			if _, err := os.Stat(once); err != nil {
				t.Errorf("the crash point was never passed: %v", err)
			}
			entries := g.ledger(name)
			if len(entries) != 1 || g.state(name) != "issued" || entries[0].Serial != fmt.Sprintf("%x", d.cert.SerialNumber) || !entries[0].RevokedAt.IsZero() {
				t.Errorf("in the end: ledger %+v, %s", entries, g.state(name))
			}
			g.stop()
		})
	}
}

// A certificate that nobody confirms is revoked within five seconds of its time, and the device may try again.
func TestCMPNeverConfirmed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	edited(t, dir, "protocol: cmp\n", "protocol: cmp\n    cmp: {confirm-wait: 1s}\n")
	g := startIn(t, dir)
	d := g.cmpDevice("silent")
	if _, err := d.exchange(d.request(cmpmsg.TypeIR)); err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(6 * time.Second)
	for g.ledger("silent")[0].RevokedAt.IsZero() {
		if time.Now().After(until) {
			t.Fatal("it is not revoked")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if m, err := d.exchange(d.certConf()); err != nil || failure(m) != "certRevoked" {
		t.Errorf("a late certConf: %v %v", failure(m), err)
	}
	if s := g.state("silent"); s != "rejected" {
		t.Error(s)
	}
}
