package authz

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/store"
)

// BenchmarkPipeline judges a request by five stages: the vendor's certificate, the device in an inventory of the given size,
// a one-time challenge, key and names. Without the pipeline's commit, which does not depend on the size either.
func BenchmarkPipeline(b *testing.B) {
	for _, size := range []int{1_000, 1_000_000} {
		b.Run(fmt.Sprintf("%d-devices", size), func(b *testing.B) { benchmarkPipeline(b, size) })
	}
}

func benchmarkPipeline(b *testing.B, size int) {
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(b.Context(), "sqlite:"+filepath.Join(b.TempDir(), "muster.db"), store.Options{Instance: "bench", Clock: atNoon, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	devices := make([]*gateway.Device, size)
	for i := range devices {
		devices[i] = &gateway.Device{
			Name: fmt.Sprintf("bts-%07d", i), Vendor: "acme", Attributes: map[string]string{"site": "north"},
			Identifiers: []gateway.DeviceID{{Kind: "serial", Value: fmt.Sprintf("SN%07d", i)}}, Created: noon, Updated: noon,
		}
	}
	begun := time.Now()
	if _, _, err := s.ImportDevices(b.Context(), devices, false, gateway.AuditEvent{Kind: "devices-imported", At: noon}, nil); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d devices imported in %v", size, time.Since(begun).Round(time.Millisecond))

	dir := b.TempDir()
	root := newCA(b, "Acme Root", nil)
	write(b, dir, "acme.pem", pemOf(root.cert))
	made := func(stage gateway.Stage, err error) gateway.Stage {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		return stage
	}
	vendor, err := NewVendorCA(VendorCAConfig{Dir: ".", Serial: "subject.serialNumber", Vendor: "acme"}, dir, log, atNoon)
	stages := gateway.Pipeline{made(vendor, err)}
	inventory, err := NewInventory(InventoryConfig{}, s, atNoon)
	stages = append(stages, made(inventory, err))
	challenge, err := NewChallenge(ChallengeConfig{Issued: true}, dir, NewHashing(1), s, atNoon)
	stages = append(stages, made(challenge, err))
	keys, err := NewKeys(KeysConfig{}, dir)
	stages = append(stages, made(keys, err))
	names, err := NewNames(NamesConfig{})
	stages = append(stages, made(names, err))

	endpoint := &gateway.Endpoint{Name: "ran", Profile: &gateway.Profile{Name: "device", Backend: "local", Validity: time.Hour}}
	requests := make([]*gateway.Request, 256)
	for i := range requests {
		serial := fmt.Sprintf("SN%07d", rand.IntN(size))
		cert := root.issue(int64(i+1), "radio", func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "radio", SerialNumber: serial} })
		secret := []byte(fmt.Sprintf("challenge-%d", i))
		sum := sha256.Sum256(secret)
		err := s.PutChallenge(b.Context(), &gateway.IssuedChallenge{
			ID: fmt.Sprintf("%x", sum[:8]), Hash: sum[:], Endpoint: "ran", Uses: 1, Created: noon, NotAfter: noon.Add(time.Hour), By: "bench",
		}, gateway.AuditEvent{Kind: "challenge-made", At: noon})
		if err != nil {
			b.Fatal(err)
		}
		requests[i] = &gateway.Request{
			ID: gateway.NewID(noon), Protocol: gateway.SCEP, Endpoint: "ran", Operation: gateway.Enroll, Subject: cert.RawSubject,
			PublicKey: cert.RawSubjectPublicKeyInfo, POP: gateway.POPSignature, Received: noon,
			Credentials: []gateway.Credential{credential(gateway.CredentialSigner, cert), {Kind: gateway.CredentialChallenge, Secret: gateway.Secret(secret)}},
		}
	}
	b.ResetTimer()
	for i := range b.N {
		r := requests[i%len(requests)]
		g := gateway.NewGrant(r, endpoint, noon)
		for _, stage := range stages {
			if v := stage.Decide(b.Context(), r, g); v.Decision != gateway.Allow {
				b.Fatalf("%s: %s %s", stage.Name(), v.Decision, v.Note)
			}
		}
	}
}
