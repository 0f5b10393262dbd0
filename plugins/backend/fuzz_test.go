package backend

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/muster-pki/muster/plugins/backend/backendpb/v1"
)

func wired(f *testing.F, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzFromWire: what another process says, a plugin to its gateway or a gateway to its plugin, is within the bounds of the contract, or refused.
func FuzzFromWire(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wired(f, &pb.Issuance{Certificate: der, Chain: [][]byte{der}}))
	f.Add(wired(f, &pb.Issuance{Ticket: "t", RetryAfter: &durationpb.Duration{Seconds: -1 << 62, Nanos: -1}}))
	f.Add(wired(f, &pb.Issuance{Certificate: der[:len(der)-1]}))
	f.Add(wired(f, &pb.CA{Name: "ec", Chain: [][]byte{der}, Rollover: [][]byte{der}, Crls: []string{"ec", "ec"}, Next: [][]byte{der}}))
	f.Add(wired(f, templateToWire(&Template{Subject: []byte{0x30, 0}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<40, 0), KeyUsage: 1,
		ExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6}}, Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3}}}})))
	f.Fuzz(func(t *testing.T, b []byte) {
		var i pb.Issuance
		if proto.Unmarshal(b, &i) == nil {
			if got, err := issuanceFromWire(&i); err == nil {
				if (len(got.Certificate) == 0) != (got.Ticket != "") || len(got.Certificate) > MaxCertificate || len(got.Ticket) > MaxTicket || got.RetryAfter < 0 || got.RetryAfter > 7*24*time.Hour {
					t.Errorf("%+v", got)
				}
			}
		}
		var ca pb.CA
		if proto.Unmarshal(b, &ca) == nil {
			if got, err := caFromWire(&ca); err == nil && (got.Name == "" || len(got.Chain) == 0 || len(got.Chain) > MaxChain || len(got.Next) > MaxChain || len(got.Rollover) > MaxRollover || len(got.CRLs) > MaxRollover || len(got.Shards) > MaxShards) {
				t.Errorf("%+v", got)
			}
		}
		var w pb.Template
		if proto.Unmarshal(b, &w) != nil {
			return
		}
		got, err := templateFromWire(&w)
		if err != nil {
			return
		}
		if len(got.Extensions) > maxExtensions || len(got.ExtKeyUsage) > maxExtensions {
			t.Errorf("%d extensions, %d purposes", len(got.Extensions), len(got.ExtKeyUsage))
		}
		back, err := templateFromWire(templateToWire(&got))
		if err != nil || len(back.Extensions) != len(got.Extensions) || !back.NotAfter.Equal(got.NotAfter) || !back.NotBefore.Equal(got.NotBefore) {
			t.Errorf("%+v becomes %+v, %v", got, back, err)
		}
	})
}
