package e2e

import (
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/muster-pki/muster/protocols/cmp/cmpmsg"
)

const anyReplicaConfig = `version: 1
listeners:
  http: {address: 127.0.0.1:0}
store: %q
backends:
  memory: {plugin: ../memoryca, sha256: %s, config: {journal: %s}}
profiles:
  device: {backend: memory, keys: [P-256], validity: 30d, key-usage: [digitalSignature], ext-key-usage: [clientAuth]}
endpoints:
  held:
    protocol: cmp
    listeners: [http]
    profile: device
    ra: {cert: ../ra.pem, key: ../ra.pem}
    enroll:
      - shared-secret: {secrets: {factory: {file: ../factory.secret}}}
      - names: {}
      - approval: {approvers: 1}
    renew:
      - own-certificate: {}
    revoke:
      - own-certificate: {}
`

// TestCMPAnyReplica changes the replica with every step: ir, pollReq (RFC 9810 section 5.3.22), the approval, certConf, rr, and the kur that fails
// then.
func TestCMPAnyReplica(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"ra.pem": raPEM(t), "factory.secret": []byte(factorySecret)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replicas, _ := startReplicas(t, dir, func(dsn, _, sum, journal string) string {
		return fmt.Sprintf(anyReplicaConfig, dsn, sum, journal)
	}, func(g *instance) map[string]string {
		return map[string]string{"MUSTER_HTTP": "http://" + g.listening("http"), "MUSTER_CMP_REF": "factory", "MUSTER_CMP_SECRET": factorySecret}
	})
	a, b := replicas[0], replicas[1]
	d := a.cmpDevice("wanders")
	ask := func(g *instance, body cmpmsg.Body, want cmpmsg.BodyType) *cmpmsg.Message {
		t.Helper()
		d.at(g, "held")
		m, err := d.exchange(body)
		if err != nil || m.Body.Type() != want {
			t.Fatalf("%v, %v %s; want %v", err, m.Body.Type(), failure(m), want)
		}
		return m
	}
	poll := &cmpmsg.PollReq{ReqIDs: []*big.Int{big.NewInt(0)}}
	if ask(a, d.request(cmpmsg.TypeIR), cmpmsg.TypeIP); d.cert != nil {
		t.Fatal("a certificate before the approval")
	}
	ask(b, poll, cmpmsg.TypePollRep)
	ask(a, poll, cmpmsg.TypePollRep)
	b.muster("approve", a.held("wanders"))
	if ask(a, poll, cmpmsg.TypeIP); d.cert == nil {
		t.Fatal("no certificate after the approval")
	}
	ask(b, d.certConf(), cmpmsg.TypePKIConf)

	owner := *d
	d = &owner
	d.signer, d.chain, d.tid, d.peer = d.key, [][]byte{d.cert.Raw}, random(16), nil
	m := ask(b, &cmpmsg.RevReq{Details: []cmpmsg.RevDetails{{Certificate: cmpmsg.CertTemplate{Issuer: d.cert.RawIssuer, SerialNumber: d.cert.SerialNumber}}}}, cmpmsg.TypeRP)
	if rep := m.Body.(*cmpmsg.RevRep); rep.Statuses[0].Status != cmpmsg.StatusAccepted {
		t.Errorf("rr: %+v", rep)
	}
	d.tid, d.peer = random(16), nil
	if m := ask(a, d.request(cmpmsg.TypeKUR), cmpmsg.TypeKUP); failure(m) != "certRevoked" {
		t.Errorf("kur with a revoked certificate: %s", failure(m))
	}
}
