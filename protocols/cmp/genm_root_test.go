package cmp

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	stdpkix "crypto/x509/pkix"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

// generations are three roots under one name, each linked with the one before (RFC 9810 section 4.4), and the last one renewed
// with its key. Their times tell nothing of their order, as those of a young CA do.
type generations struct {
	self        [4]*x509.Certificate // self[3] is self[2], renewed
	ahead, back [2]*x509.Certificate // NewWithOld and OldWithNew between i and i+1
}

func newGenerations(t testing.TB, name string) *generations {
	t.Helper()
	keys := []crypto.Signer{newP256(), newP256(), newP256()}
	sign := func(subject, by, days int) *x509.Certificate {
		return signCertificate(t, &x509.Certificate{
			Subject: stdpkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
			NotBefore: testTime.Add(-time.Hour), NotAfter: testTime.Add(time.Duration(days) * 24 * time.Hour),
		}, nil, keys[subject].Public(), keys[by])
	}
	r := &generations{}
	for i := range 3 {
		r.self[i] = sign(i, i, 10)
	}
	r.self[3] = sign(2, 2, 20)
	for i := range 2 {
		r.ahead[i], r.back[i] = sign(i+1, i, 10), sign(i, i+1, 10)
	}
	return r
}

// at is the CA while the root i is the current one.
func (r *generations) at(w *world, i int, rollover ...*x509.Certificate) *gateway.Authority {
	return &gateway.Authority{Name: "ec", Chain: []*x509.Certificate{w.ca.issuer, r.self[i]}, Rollover: rollover, CRLs: []string{"ec"}}
}

// RFC 9810 section 5.3.19.15: what follows a root, absent where nothing does.
func TestRootUpdate(t *testing.T) {
	r, foreign := newGenerations(t, "Root"), newGenerations(t, "Root")
	all := []*x509.Certificate{r.self[0], r.back[0], r.ahead[0], r.self[1], r.back[1], r.ahead[1], r.self[2]}
	update := func(newWithNew, newWithOld, oldWithNew *x509.Certificate) *cmpmsg.CAKeyUpdate {
		u := &cmpmsg.CAKeyUpdate{NewWithNew: newWithNew.Raw}
		if newWithOld != nil {
			u.NewWithOld = newWithOld.Raw
		}
		if oldWithNew != nil {
			u.OldWithNew = oldWithNew.Raw
		}
		return u
	}
	for _, tt := range []struct {
		name     string
		current  int
		rollover []*x509.Certificate
		asked    *x509.Certificate
		want     *cmpmsg.CAKeyUpdate
	}{
		{"no rollover", 0, nil, r.self[0], nil},
		{"no rollover, no root said", 0, nil, nil, nil},
		{"the next", 1, all[:3], r.self[0], update(r.self[1], r.ahead[0], r.back[0])},
		{"the next, no root said", 1, all[:3], nil, update(r.self[1], r.ahead[0], r.back[0])},
		{"the current", 1, all[:3], r.self[1], nil},
		{"two behind: the one between", 2, all, r.self[0], update(r.self[1], r.ahead[0], r.back[0])},
		{"one behind", 2, all, r.self[1], update(r.self[2], r.ahead[1], r.back[1])},
		{"two changes, no root said", 2, all, nil, update(r.self[2], r.ahead[1], r.back[1])},
		{"renewed with its key", 3, []*x509.Certificate{r.self[2]}, r.self[2], update(r.self[3], nil, nil)},
		{"renewed with its key, not kept", 3, nil, r.self[2], update(r.self[3], nil, nil)},
		{"newer than the current", 2, nil, r.self[3], nil},
		{"no OldWithNew", 1, []*x509.Certificate{r.self[0], r.ahead[0]}, r.self[0], update(r.self[1], r.ahead[0], nil)},
		{"no link at all", 1, []*x509.Certificate{r.self[0]}, r.self[0], update(r.self[1], nil, nil)},
		{"another CA's root of the same name", 1, all[:3], foreign.self[0], nil},
		{"a link in the place of a root", 1, []*x509.Certificate{r.back[0]}, r.back[0], nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			w.gateway.tells.authorities = map[string]*gateway.Authority{"base-station": r.at(w, tt.current, tt.rollover...)}
			q := cmpmsg.InfoTypeAndValue{Type: cmpmsg.OIDRootCACert}
			if tt.asked != nil {
				q.Value = tt.asked.Raw
			}
			value := one(t, w.macClient("ref-1").ask(genm(q)), cmpmsg.OIDRootCAKeyUpdate)
			if tt.want == nil || value == nil {
				if tt.want != nil || value != nil {
					t.Errorf("a value of %d bytes", len(value))
				}
				return
			}
			got, err := cmpmsg.ParseRootUpdate(value)
			if err != nil || !bytes.Equal(got.NewWithNew, tt.want.NewWithNew) || !bytes.Equal(got.NewWithOld, tt.want.NewWithOld) || !bytes.Equal(got.OldWithNew, tt.want.OldWithNew) {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

// A root of any CA of the endpoint is followed, whatever profile is asked about; without a root, it is the profile's CA.
func TestRootUpdateOfAnotherProfile(t *testing.T) {
	w := newWorld(t, worldOptions{})
	ec, rsa := newGenerations(t, "EC Root"), newGenerations(t, "RSA Root")
	w.gateway.tells.profiles = []*gateway.Profile{{Name: "ec", Backend: "local"}, {Name: "rsa", Backend: "local"}}
	w.gateway.tells.authorities = map[string]*gateway.Authority{"ec": ec.at(w, 0), "rsa": rsa.at(w, 1, rsa.self[0], rsa.ahead[0], rsa.back[0])}
	c := w.macClient("ref-1")
	if one(t, c.ask(genm(itav(cmpmsg.OIDRootCACert, rsa.self[0].Raw))), cmpmsg.OIDRootCAKeyUpdate) == nil {
		t.Error("nothing follows the other CA's root")
	}
	c = w.macClient("ref-1")
	c.info = profiles("ec", "rsa")
	list := told(t, c.ask(genm(cmpmsg.OIDRootCACert, cmpmsg.OIDRootCACert, cmpmsg.OIDRootCACert)))
	if len(list) != 3 || list[0].Value != nil || list[1].Value == nil || list[2].Value != nil {
		t.Errorf("%d elements", len(list))
	}
	// caCerts have both generations.
	c = w.macClient("ref-1")
	c.info = profiles("rsa")
	certs, err := cmpmsg.ParseSequences(one(t, c.ask(genm(cmpmsg.OIDCACerts)), cmpmsg.OIDCACerts))
	if err != nil || len(certs) != 5 || !bytes.Equal(certs[1], rsa.self[1].Raw) || !bytes.Equal(certs[2], rsa.self[0].Raw) {
		t.Errorf("%d certificates, %v", len(certs), err)
	}
}

// A CA that does not answer is no reason to tell half of what was asked for.
func TestGeneralMessageUnavailable(t *testing.T) {
	for _, q := range []cmpmsg.InfoTypeAndValue{
		{Type: cmpmsg.OIDCACerts}, {Type: cmpmsg.OIDRootCACert}, {Type: cmpmsg.OIDCurrentCRL},
		itav(cmpmsg.OIDCRLStatusList, crlSources(t, cmpmsg.CRLStatus{Issuer: element(0x30, cmpmsg.GeneralDirectoryName(cn("x")))})),
	} {
		w := newWorld(t, worldOptions{})
		w.gateway.tells.fails = &gateway.Error{Reason: gateway.Unavailable, Detail: "the CA cannot be reached"}
		m := w.macClient("ref-1").ask(genm(cmpmsg.OIDSignKeyPairTypes, q))
		if fail, text, _ := failure(m); fail != cmpmsg.SystemUnavail || !strings.Contains(text, "cannot be reached") {
			t.Errorf("%s: %b %s", cmpmsg.InfoTypeName(q.Type), fail, text)
		}
	}
}

func crlSources(t testing.TB, list ...cmpmsg.CRLStatus) []byte {
	t.Helper()
	der, err := cmpmsg.MarshalCRLStatusList(list...)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// publish puts a CRL with n entries where the fake gateway finds it.
func (w *world) publish(name string, signer *testCA, at time.Time, n int) []byte {
	w.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: at, NextUpdate: at.Add(time.Hour)}
	for i := range n {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(int64(i + 1)), RevocationTime: at})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, &x509.Certificate{
		RawSubject: w.ca.issuer.RawSubject, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign,
	}, signer.key)
	if err != nil {
		w.t.Fatal(err)
	}
	if w.gateway.tells.crls == nil {
		w.gateway.tells.crls = map[string]toldCRL{}
	}
	w.gateway.tells.crls["local/"+name] = toldCRL{der, gateway.CRLInfo{ThisUpdate: at, Signer: signer.issuer}}
	return der
}

// RFC 9810 section 5.3.19.6.
func TestCurrentCRL(t *testing.T) {
	w := newWorld(t, worldOptions{})
	der := w.publish("ec", w.ca, testTime, 2)
	if got := one(t, w.macClient("ref-1").ask(genm(cmpmsg.OIDCurrentCRL)), cmpmsg.OIDCurrentCRL); !bytes.Equal(got, der) {
		t.Errorf("%d bytes", len(got))
	}
	// One that no message can hold is refused in words, not with systemFailure.
	w.publish("ec", w.ca, testTime, 20_000)
	if fail, text, _ := failure(w.macClient("ref-1").ask(genm(cmpmsg.OIDCurrentCRL))); fail != cmpmsg.BadRequest || !strings.Contains(text, "too large") {
		t.Errorf("%b %s", fail, text)
	}
	list := crlSources(t, cmpmsg.CRLStatus{Issuer: element(0x30, cmpmsg.GeneralDirectoryName(w.ca.issuer.RawSubject))})
	if fail, text, _ := failure(w.macClient("ref-1").ask(genm(itav(cmpmsg.OIDCRLStatusList, list)))); fail != cmpmsg.BadRequest || !strings.Contains(text, "too large") {
		t.Errorf("%b %s", fail, text)
	}
	// Neither can it hold many of them.
	w.publish("ec", w.ca, testTime, 1000)
	var all []any
	for range 16 {
		all = append(all, cmpmsg.OIDCurrentCRL)
	}
	if fail, text, _ := failure(w.macClient("ref-1").ask(genm(all...))); fail != cmpmsg.BadRequest || !strings.Contains(text, "too large") {
		t.Errorf("%b %s", fail, text)
	}
}

// RFC 9810 section 5.3.19.17: CRLs of a CA by its name, or by the URI under which they are served, and only newer ones.
func TestCRLStatusList(t *testing.T) {
	w := newWorld(t, worldOptions{})
	earlier := newTestCA(t, "Earlier", newP256())
	w.gateway.tells.authorities = map[string]*gateway.Authority{"base-station": {
		Name: "ec", Chain: []*x509.Certificate{w.ca.issuer, w.ca.root}, CRLs: []string{"ec", "ec.2", "ec.1", "ec.0"},
		Shards: []backend.CRLShard{{Name: "ec.1.1", URIs: []string{"http://pki.test/1"}}, {Name: "ec.2.2", URIs: []string{"http://pki.test/2", "ldap://pki.test/2"}}},
	}}
	w.publish("ec.1.1", earlier, testTime, 1)
	shard := w.publish("ec.2.2", w.ca, testTime, 1)
	now := w.publish("ec", w.ca, testTime, 1)
	w.publish("ec.2", w.ca, testTime, 1)                             // by the same key under its own name, signed anew
	old := w.publish("ec.1", earlier, testTime.Add(-time.Minute), 1) // by the key before; of ec.0 there is none any more
	issuer := func(name []byte) []byte { return element(0x30, cmpmsg.GeneralDirectoryName(name)) }
	uri := func(u string) []byte { return element(0xa0, element(0x86, []byte(u))) }
	for _, tt := range []struct {
		name string
		list []cmpmsg.CRLStatus
		want [][]byte
	}{
		{"issuer", []cmpmsg.CRLStatus{{Issuer: issuer(w.ca.issuer.RawSubject)}}, [][]byte{now, old}},
		{"older ones known", []cmpmsg.CRLStatus{{Issuer: issuer(w.ca.issuer.RawSubject), ThisUpdate: testTime.Add(-time.Minute)}}, [][]byte{now}},
		{"all known", []cmpmsg.CRLStatus{{Issuer: issuer(w.ca.issuer.RawSubject), ThisUpdate: testTime}}, nil},
		{"a newer one known", []cmpmsg.CRLStatus{{Issuer: issuer(w.ca.issuer.RawSubject), ThisUpdate: testTime.Add(time.Hour)}}, nil},
		{"another issuer", []cmpmsg.CRLStatus{{Issuer: issuer(w.ca.root.RawSubject)}}, nil},
		{"URI", []cmpmsg.CRLStatus{{DistributionPoint: uri("http://elsewhere.example/crl/local/ec.1.crl")}}, [][]byte{old}},
		{"another URI", []cmpmsg.CRLStatus{{DistributionPoint: uri("http://elsewhere.example/crl/local/ec.9.crl")}}, nil},
		{"a shard's URI", []cmpmsg.CRLStatus{{DistributionPoint: uri("ldap://pki.test/2")}}, [][]byte{shard}},
		{"a shard's file", []cmpmsg.CRLStatus{{DistributionPoint: uri("http://elsewhere.example/crl/local/ec.2.2.crl")}}, [][]byte{shard}},
		{"a shard, and the issuer", []cmpmsg.CRLStatus{{DistributionPoint: uri("http://pki.test/2")}, {Issuer: issuer(w.ca.issuer.RawSubject)}}, [][]byte{shard, now, old}},
		{"a URI that ends alike", []cmpmsg.CRLStatus{{DistributionPoint: uri("http://elsewhere.example/crl/notlocal/ec.1.crl")}}, nil},
		{"no URI at all", []cmpmsg.CRLStatus{{DistributionPoint: uri(":%zz")}}, nil},
		{"a distribution point that is the issuer", []cmpmsg.CRLStatus{{DistributionPoint: element(0xa0, cmpmsg.GeneralDirectoryName(w.ca.issuer.RawSubject))}}, [][]byte{now, old}},
		{"a name relative to the issuer", []cmpmsg.CRLStatus{{DistributionPoint: element(0xa1, cn("x")[4:])}}, nil},
		{"a URI in the place of that", []cmpmsg.CRLStatus{{DistributionPoint: element(0xa1, element(0x86, []byte("http://x/crl/local/ec.crl")))}}, nil},
		{"a URI as issuer", []cmpmsg.CRLStatus{{Issuer: element(0x30, element(0x86, []byte("http://x/crl/local/ec.crl")))}}, nil},
		{"two sources, one CRL", []cmpmsg.CRLStatus{{DistributionPoint: uri("http://x/crl/local/ec.crl")}, {Issuer: issuer(w.ca.issuer.RawSubject)}}, [][]byte{now, old}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			value := one(t, w.macClient("ref-1").ask(genm(itav(cmpmsg.OIDCRLStatusList, crlSources(t, tt.list...)))), cmpmsg.OIDCRLs)
			if tt.want == nil {
				if value != nil {
					t.Errorf("a value of %d bytes", len(value))
				}
				return
			}
			got, err := cmpmsg.ParseSequences(value)
			if err != nil || fmt.Sprintf("%x", got) != fmt.Sprintf("%x", tt.want) {
				t.Errorf("%d CRLs, %v", len(got), err)
			}
		})
	}
}
