//go:build peers

package e2e

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/muster-pki/muster/protocols/cms"
)

// The servers beside which BenchmarkSCEPPeers measures, which Go builds from their modules:
//
//	go install github.com/micromdm/scep/v2/cmd/scepserver@v2.3.0
//	CGO_ENABLED=0 go build -mod=mod github.com/smallstep/certificates/cmd/step-ca # in a module that requires v0.29.0
//
// They are found on the PATH.

// scepPeer is a SCEP server under load.
type scepPeer struct {
	name, url, challenge string
	processes            []int
	ra                   *x509.Certificate
	used                 []float64 // microseconds of CPU for one enrollment, in each round
	rate                 []float64 // enrollments a second
	next                 int
}

// enroll has n clients enroll so many new devices; their messages are made before.
func (p *scepPeer) enroll(b *testing.B, client *http.Client, n, times int) {
	b.Helper()
	keys, err := scepKeys()
	if err != nil {
		b.Fatal(err)
	}
	messages := make([][]byte, times)
	var making sync.WaitGroup
	for worker := range runtime.NumCPU() {
		making.Go(func() {
			for i := worker; i < times; i += runtime.NumCPU() {
				m, err := keys[i%len(keys)].pkcsReq("bench-"+strconv.Itoa(p.next+i), p.challenge, p.ra, cms.AES128)
				if err != nil {
					b.Error(err)
					return
				}
				messages[i] = m
			}
		})
	}
	making.Wait()
	if b.Failed() {
		b.FailNow()
	}
	p.next += times
	start := time.Now()
	p.used = append(p.used, load(b, p.processes, n, times, func(i int) error {
		_, err := pkiOperation(client, p.url, messages[i])
		return err
	})/1000)
	p.rate = append(p.rate, float64(times)/time.Since(start).Seconds())
}

// peer starts a server and waits until it answers.
func peer(b *testing.B, name, url, challenge string, cmd *exec.Cmd) *scepPeer {
	b.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) //nolint:errcheck // it was killed
	for range 500 {
		if ra, err := scepRA(url); err == nil {
			return &scepPeer{name: name, url: url, challenge: challenge, processes: []int{cmd.Process.Pid}, ra: ra}
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.Fatalf("%s does not answer", name)
	return nil
}

func freeAddress(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func scepServer(b *testing.B) *scepPeer {
	b.Helper()
	depot, address := filepath.Join(b.TempDir(), "depot"), freeAddress(b)
	if out, err := exec.Command("scepserver", "ca", "-init", "-depot", depot, "-keySize", "2048").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return peer(b, "scepserver", "http://"+address+"/scep", "secret",
		exec.Command("scepserver", "-depot", depot, "-challenge", "secret", "-allowrenew", "0", "-http-addr", address))
}

func stepCA(b *testing.B) *scepPeer {
	b.Helper()
	dir, address := b.TempDir(), freeAddress(b)
	config := fmt.Sprintf(`{"root":"root.pem","crt":"int.pem","key":"int.key","address":%q,"insecureAddress":%q,"dnsNames":["127.0.0.1"],
		"db":{"type":"badgerv2","dataSource":"db"},"authority":{"provisioners":[{"type":"SCEP","name":"scep","challenge":"secret",
		"minimumPublicKeyLength":2048,"encryptionAlgorithmIdentifier":1}]}}`, freeAddress(b), address)
	if err := os.WriteFile(filepath.Join(dir, "ca.json"), []byte(config), 0o600); err != nil {
		b.Fatal(err)
	}
	make := exec.Command("sh", "-euc", `
		openssl req -x509 -newkey rsa:2048 -nodes -keyout root.key -out root.pem -subj /CN=Root -days 3650 -addext keyUsage=critical,keyCertSign,cRLSign
		openssl req -newkey rsa:2048 -nodes -keyout int.key -out int.csr -subj /CN=Issuing
		printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature,keyEncipherment\n' > ext
		openssl x509 -req -in int.csr -CA root.pem -CAkey root.key -CAcreateserial -days 3000 -extfile ext -out int.pem`)
	make.Dir = dir
	if out, err := make.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	serve := exec.Command("step-ca", "ca.json")
	serve.Dir = dir
	return peer(b, "step-ca", "http://"+address+"/scep/scep", "secret", serve)
}

// asPeer is the gateway, started with an RSA-2048 CA.
func (g *instance) asPeer(b *testing.B) *scepPeer {
	b.Helper()
	ra, err := g.scepRA()
	if err != nil {
		b.Fatal(err)
	}
	return &scepPeer{
		name: "muster", url: g.env["MUSTER_HTTP"] + "/scep", challenge: g.env["MUSTER_SCEP_CHALLENGE"],
		processes: []int{g.cmd.Process.Pid, g.plugin()}, ra: ra,
	}
}

// BenchmarkSCEPPeers has the same load, PKCSReq with RSA-2048 throughout and AES-128, go to this gateway, to micromdm's scepserver
// and to step-ca, in turn, 300 enrollments each: one round is one operation, so -benchtime 8x is eight. It reports the least
// CPU of a server's rounds for one enrollment, and the most enrollments a second; crypto is the sum of RSA operations,
// measured in the same rounds, the least of them too.
func BenchmarkSCEPPeers(b *testing.B) {
	for _, clients := range []int{16, 1} {
		b.Run(strconv.Itoa(clients)+"-clients", func(b *testing.B) {
			peers := []*scepPeer{startWithRSA(b, 2048).asPeer(b), scepServer(b), stepCA(b)}
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
			for _, p := range peers { // connections, and what is made at first use
				p.enroll(b, client, clients, 32)
				p.used, p.rate = nil, nil
			}
			var crypto []float64
			for range b.N {
				for _, p := range peers {
					p.enroll(b, client, clients, 300)
				}
				_, all := scepCrypto(b, 2048)
				crypto = append(crypto, all)
			}
			for _, p := range peers {
				b.Logf("%s, µs in each round: %.0f", p.name, p.used)
				b.ReportMetric(slices.Min(p.used), p.name+"-µs")
				b.ReportMetric(slices.Max(p.rate), p.name+"/s")
			}
			b.ReportMetric(slices.Min(crypto)/1000, "crypto-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkSCEPFlat enrols with 16 clients, 2,000 at a time (-benchtime 10x: 20,000), and logs what each 2,000 cost.
func BenchmarkSCEPFlat(b *testing.B) {
	p := startWithRSA(b, 2048).asPeer(b)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: time.Minute}
	p.enroll(b, client, 16, 32)
	p.used, p.rate = nil, nil
	for i := range b.N {
		p.enroll(b, client, 16, 2000)
		_, all := scepCrypto(b, 2048)
		b.Logf("to %d: %.0f µs, crypto %.0f µs", (i+1)*2000, p.used[i], all/1000)
	}
	b.ReportMetric(p.used[0], "first-µs")
	b.ReportMetric(p.used[len(p.used)-1], "last-µs")
	b.ReportMetric(0, "ns/op")
}
