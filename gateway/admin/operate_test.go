package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/plugins/backend"
)

// answer is what a request without a client was given.
type answer struct {
	status      int
	body        string
	read, write time.Time // deadlines that were set
}

// request asks a server as an administrator, without a connection.
func request(ctx context.Context, s *Server, method, path, kind string, body []byte) answer {
	r := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := &deadlined{ResponseRecorder: httptest.NewRecorder()}
	s.handler(func(*http.Request) (caller, error) { return caller{"test", Admin}, nil }).ServeHTTP(w, r)
	return answer{w.Code, w.Body.String(), w.read, w.write}
}

type deadlined struct {
	*httptest.ResponseRecorder
	read, write time.Time
}

func (d *deadlined) SetReadDeadline(t time.Time) error  { d.read = t; return nil }
func (d *deadlined) SetWriteDeadline(t time.Time) error { d.write = t; return nil }

// What asks a CA, or uploads much, has longer than the server gives else.
func TestLongCalls(t *testing.T) {
	server := newServer(t, &source{})
	for path, want := range map[string]time.Duration{
		"/v1/devices/import": importTimeout, "/v1/cas/local/rollover": longTimeout, "/v1/certificates/revoke": longTimeout,
		"/v1/transactions/x/approve": longTimeout, "/v1/devices": 0,
	} {
		before := time.Now()
		got := request(t.Context(), server, "POST", path, "text/plain", nil)
		if got.status != 415 || want == 0 && !got.read.IsZero() || want != 0 && (got.read.Before(before.Add(want)) || got.write.Before(before.Add(want))) {
			t.Errorf("%s: %+v", path, got)
		}
	}
}

func TestApproval(t *testing.T) {
	held := transaction(1, gateway.StateHeld, func(x *gateway.Transaction) {
		x.Hold = &gateway.HoldRecord{Stage: "approval", Approvers: 2, Until: noon.Add(time.Hour), Approvals: []gateway.Approval{{By: "token:a", At: noon, Reason: "known"}}}
		x.Changes = []string{"subject: CN=a instead of CN=b"}
		x.Facts = json.RawMessage(`{"requester":"token"}`)
	})
	s := &source{
		stored:   []*gateway.Transaction{transaction(2, gateway.StateHeld, nil), held},
		messages: []gateway.Message{{Transaction: held.ID, Kind: "poll", Note: "pending", Source: "192.0.2.7", Count: 3, First: noon, Last: noon.Add(time.Minute)}},
	}
	c, _ := serve(t, s)
	shown, err := c.Explain(t.Context(), held.ID)
	if err != nil {
		t.Fatal(err)
	}
	h := shown.Hold
	if h == nil || h.Stage != "approval" || h.Approvers != 2 || len(h.Approvals) != 1 || h.Approvals[0] != (Approval{By: "token:a", At: noon, Reason: "known"}) || h.Denied != nil {
		t.Errorf("%+v", h)
	}
	if string(shown.Facts) != `{"requester":"token"}` || len(shown.Changes) != 1 || len(shown.Messages) != 1 || shown.Messages[0] != (Message{"poll", "pending", "192.0.2.7", 3, noon, noon.Add(time.Minute)}) {
		t.Errorf("%+v", shown)
	}
	list, err := c.Transactions(t.Context(), TransactionQuery{States: []string{"held"}})
	if err != nil || list.Transactions[1].Hold == nil || list.Transactions[1].Messages != nil || list.Transactions[1].Changes != nil || list.Transactions[1].Facts != nil {
		t.Errorf("%+v, %v", list, err)
	}
	got, err := c.Approve(t.Context(), strings.ToUpper(id(1)[18:]), "it is fine")
	if err != nil || got.State != "issued" || !strings.HasPrefix(s.approved, "approve "+held.ID+" unix:") || !strings.HasSuffix(s.approved, " it is fine") {
		t.Errorf("%+v, %v, %q", got, err, s.approved)
	}
	if got, err = c.Deny(t.Context(), id(2), ""); err != nil || got.State != "denied" || !strings.HasPrefix(s.approved, "deny "+id(2)+" unix:") {
		t.Errorf("%+v, %v, %q", got, err, s.approved)
	}
	if list, err = c.Transactions(t.Context(), TransactionQuery{States: []string{"denied"}}); err != nil || len(list.Transactions) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	for reason, want := range map[string]struct {
		status  int
		message string
	}{
		"again":                   {409, "somebody else has to"},
		"late":                    {409, "is not held, or no longer"},
		"fire":                    {503, "disk on fire"},
		"a\nb":                    {400, "cannot be printed"},
		strings.Repeat("x", 1025): {400, "at most 1024 bytes"},
	} {
		if _, err := c.Approve(t.Context(), id(1), reason); status(err) != want.status || !strings.Contains(err.Error(), want.message) {
			t.Errorf("%.20q: %v", reason, err)
		}
	}
	if _, err := c.Approve(t.Context(), "06gzsq", ""); status(err) != 409 {
		t.Errorf("ambiguous: %v", err)
	}
	if _, err := c.Deny(t.Context(), id(77), ""); status(err) != 404 {
		t.Errorf("none: %v", err)
	}
}

func TestChallenges(t *testing.T) {
	s := &source{claims: map[string]int64{}, devices: []*gateway.Device{{Name: "dev-1", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "S1"}}}}}
	c, _ := serve(t, s)
	until := noon.Add(48 * time.Hour)
	made, err := c.NewChallenge(t.Context(), NewChallenge{Endpoint: "ran", Device: "S1", Subject: "cn=dev 1, O=Acme\\, Inc", Profile: "base", Uses: 3, NotAfter: &until})
	if err != nil {
		t.Fatal(err)
	}
	kept := s.given[0]
	sum := sha256.Sum256([]byte(made.Challenge))
	if len(made.Challenge) != 26 || !bytes.Equal(kept.Hash, sum[:]) || kept.ID != hex.EncodeToString(sum[:8]) || made.ID != kept.ID {
		t.Errorf("%+v, %+v", made, kept)
	}
	if kept.Device != "dev-1" || kept.Subject != `CN=dev 1,O=Acme\, Inc` || kept.Profile != "base" || kept.Uses != 3 || !kept.NotAfter.Equal(until) || !strings.HasPrefix(kept.By, "unix:") {
		t.Errorf("%+v", kept)
	}
	second, err := c.NewChallenge(t.Context(), NewChallenge{Endpoint: "ran"})
	if err != nil || second.Uses != 1 || second.Challenge == made.Challenge || second.NotAfter.Sub(second.Created) != 24*time.Hour {
		t.Fatalf("%+v, %v", second, err)
	}
	s.claims[kept.Key()] = 2
	list, err := c.Challenges(t.Context(), ChallengeQuery{Endpoint: "ran"})
	if err != nil || len(list.Challenges) != 2 || list.Challenges[1].Used != 2 || list.Challenges[0].Challenge != "" || list.Challenges[1].Challenge != "" {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err = c.Challenges(t.Context(), ChallengeQuery{Limit: 1, Before: second.ID}); err != nil || len(list.Challenges) != 1 || list.Challenges[0].ID != made.ID || list.Next != made.ID {
		t.Errorf("%+v, %v", list, err)
	}
	kept.NotAfter = noon.Add(-time.Hour)
	for expired, n := range map[bool]int{false: 1, true: 2} {
		if list, err = c.Challenges(t.Context(), ChallengeQuery{Expired: expired}); err != nil || len(list.Challenges) != n {
			t.Errorf("expired %v: %+v, %v", expired, list, err)
		}
	}
	if err := c.DropChallenge(t.Context(), made.ID); err != nil || len(s.given) != 1 {
		t.Errorf("%v", err)
	}
	if err := c.DropChallenge(t.Context(), made.ID); status(err) != 404 {
		t.Errorf("again: %v", err)
	}
	if err := c.DropChallenge(t.Context(), "x"); status(err) != 400 {
		t.Errorf("no ID: %v", err)
	}
	past, far := noon.Add(-time.Hour), noon.AddDate(2, 0, 0)
	for want, n := range map[string]NewChallenge{
		"past its time":     {Endpoint: "ran", NotAfter: &past},
		"366 days":          {Endpoint: "ran", NotAfter: &far},
		"uses is 1 to":      {Endpoint: "ran", Uses: -1},
		"1000000":           {Endpoint: "ran", Uses: maxUses + 1},
		"endpoint says":     {},
		`no challenges at`:  {Endpoint: "nar"},
		`for "other"`:       {Endpoint: "ran", Profile: "other"},
		"subject: ":         {Endpoint: "ran", Subject: "dev-1"},
		"at most 256 bytes": {Endpoint: "ran", Device: strings.Repeat("x", 257)},
		"cannot be printed": {Endpoint: "ran", Device: "a\nb"},
	} {
		if _, err := c.NewChallenge(t.Context(), n); status(err) != 400 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	var kinds []string
	for _, e := range s.audit {
		kinds = append(kinds, e.Kind)
		if !strings.HasPrefix(e.Actor, "unix:") || strings.Contains(fmt.Sprint(e), made.Challenge) {
			t.Errorf("audit: %+v", e)
		}
	}
	if strings.Join(kinds, " ") != "challenge-made challenge-made challenge-removed" || strings.Contains(s.log.String(), made.Challenge) {
		t.Errorf("audit: %v, log: %s", kinds, s.log.String())
	}
}

// hierarchy is a CA that was re-keyed: the root's two generations and the certificates between them.
func hierarchy(t *testing.T) (backend.CA, *authority) {
	t.Helper()
	template := func(cn string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: cn}, IsCA: true, BasicConstraintsValid: true, NotBefore: noon, NotAfter: noon.AddDate(5, 0, 0)}
	}
	older, newer := &authority{key: newKey(t)}, &authority{key: newKey(t)}
	older.cert = older.sign(t, template("Root"), older.key)
	newer.cert = newer.sign(t, template("Root"), newer.key)
	issuing := newer.sign(t, template("Issuing"), newKey(t))
	before := older.sign(t, template("Issuing 1"), newKey(t))
	oldWithNew, newWithOld := newer.sign(t, template("Root"), older.key), older.sign(t, template("Root"), newer.key)
	return backend.CA{
		Name: "ec", Chain: [][]byte{issuing.Raw, newer.cert.Raw}, CRLs: []string{"ec", "ec-1"}, Shards: []backend.CRLShard{{Name: "ec-1.1", URIs: []string{"http://x"}}},
		Rollover: [][]byte{older.cert.Raw, oldWithNew.Raw, newWithOld.Raw, before.Raw},
	}, newer
}

func TestCAs(t *testing.T) {
	ca, _ := hierarchy(t)
	s := &source{authority: []backend.CA{ca, {Name: "broken", Chain: [][]byte{{1}}}}}
	c, _ := serve(t, s)
	list, err := c.CAs(t.Context())
	if err != nil || len(list.CAs) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	if list.CAs[0].Backend != "gone" || list.CAs[0].Error != "no answer" || list.CAs[2].Error == "" || list.CAs[2].Default {
		t.Errorf("%+v", list.CAs)
	}
	one := list.CAs[1]
	if one.Backend != "local" || one.Name != "ec" || !one.Default || !one.CanRoll || !slices.Equal(one.CRLs, ca.CRLs) || !slices.Equal(one.CRLShards, []string{"ec-1.1"}) {
		t.Errorf("%+v", one)
	}
	kinds := func(all []CACertificate) (out []string) {
		for _, x := range all {
			out = append(out, x.Subject+" "+x.Kind+" "+x.Key)
		}
		return out
	}
	if got := strings.Join(kinds(one.Chain), "|"); got != "CN=Issuing issuing P-256|CN=Root root P-256" {
		t.Errorf("chain: %s", got)
	}
	if got := strings.Join(kinds(one.Rollover), "|"); got != "CN=Root root P-256|CN=Root OldWithNew P-256|CN=Root NewWithOld P-256|CN=Issuing 1 issuing P-256" {
		t.Errorf("rollover: %s", got)
	}
	if one.Rollover[2].KeyID != one.Chain[1].KeyID || one.Rollover[1].KeyID != one.Rollover[0].KeyID || !strings.HasPrefix(one.Chain[0].PEM, "-----BEGIN CERTIFICATE-----") {
		t.Error("keys")
	}
	rolled, err := c.Rollover(t.Context(), "local", RolloverOrder{Issuer: "ec", Kind: "rekey", Root: true})
	if err != nil || rolled.Name != "ec" || s.rolled.Kind != backend.RolloverRekey || !s.rolled.Root || s.rolled.Issuer != "ec" || !gateway.ValidID(s.rolled.ID) {
		t.Errorf("%+v, %v, %+v", rolled, err, s.rolled)
	}
	if !strings.HasPrefix(s.audit[0].Actor, "unix:") {
		t.Errorf("%+v", s.audit)
	}
	if _, err := c.Rollover(t.Context(), "other", RolloverOrder{Kind: "renew"}); status(err) != 409 || err.Error() != "this CA is not changed over through the gateway" {
		t.Errorf("unsupported: %v", err)
	}
	if _, err := c.Rollover(t.Context(), "local", RolloverOrder{Kind: "new"}); status(err) != 400 {
		t.Errorf("kind: %v", err)
	}
	if err := c.post(t.Context(), "/v1/cas/local/rollover", nil, RolloverOrder{Kind: "renew", ID: "x"}, &CA{}); status(err) != 400 {
		t.Errorf("ID: %v", err)
	}
	der, err := c.CRL(t.Context(), "local", "ec-1")
	if err != nil || string(der) != "crl of ec-1" {
		t.Errorf("%q, %v", der, err)
	}
	for _, x := range [][2]string{{"local", "none"}, {"none", ""}} {
		if _, err := c.CRL(t.Context(), x[0], x[1]); status(err) != 404 || !strings.Contains(err.Error(), "has no CRL") {
			t.Errorf("%v: %v", x, err)
		}
	}
}

func TestRevoke(t *testing.T) {
	ca, root := hierarchy(t)
	issuing, err := x509.ParseCertificate(ca.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	s := &source{authority: []backend.CA{ca}, devices: []*gateway.Device{{Name: "dev-1", Identifiers: []gateway.DeviceID{{Kind: "serial", Value: "S1"}}}}}
	add := func(issuer []byte, serial ...byte) *gateway.Certificate {
		c := &gateway.Certificate{Issuer: issuer, Serial: serial, Device: "dev-1", Transaction: id(int(serial[0]))}
		s.certs = append(s.certs, c)
		return c
	}
	one, two, three := add(issuing.RawSubject, 0x01, 0xab), add(issuing.RawSubject, 2), add(root.cert.RawSubject, 2)
	three.Backend = "slow"
	s.stored = []*gateway.Transaction{transaction(1, gateway.StateIssued, func(x *gateway.Transaction) { x.Certificate = one }), transaction(3, gateway.StateRefused, nil)}
	c, _ := serve(t, s)
	reset := func() {
		for _, x := range s.certs {
			x.RevokedAt, x.Revocation = time.Time{}, 0
		}
		s.audit = nil
	}
	for name, x := range map[string]struct {
		query  RevokeQuery
		reason string
		want   []*gateway.Certificate
		status int
		why    string
	}{
		"by serial":        {RevokeQuery{Serial: "01AB"}, "keyCompromise", []*gateway.Certificate{one}, 200, ""},
		"as openssl shows": {RevokeQuery{Serial: "01:ab"}, "KEYCOMPROMISE", []*gateway.Certificate{one}, 200, ""},
		"short":            {RevokeQuery{Serial: "0x1ab"}, "", []*gateway.Certificate{one}, 200, ""},
		"ambiguous":        {RevokeQuery{Serial: "2"}, "", nil, 409, "say which issuer"},
		"with issuer":      {RevokeQuery{Serial: "2", Issuer: "cn=Issuing"}, "", []*gateway.Certificate{two}, 200, ""},
		"another issuer":   {RevokeQuery{Serial: "2", Issuer: "CN=Root"}, "", []*gateway.Certificate{three}, 200, ""},
		"unknown":          {RevokeQuery{Serial: "99"}, "", nil, 503, "the CAs of gone do not answer"},
		"no serial":        {RevokeQuery{Serial: "xyz"}, "", nil, 400, "hexadecimal"},
		"long serial":      {RevokeQuery{Serial: strings.Repeat("1", 44)}, "", nil, 400, "20 bytes"},
		"transaction":      {RevokeQuery{Transaction: id(1)[18:]}, "superseded", []*gateway.Certificate{one}, 200, ""},
		"without one":      {RevokeQuery{Transaction: id(3)}, "", nil, 404, "has no certificate: it is refused"},
		"device":           {RevokeQuery{Device: "S1"}, "", nil, 409, "has 3 valid certificates"},
		"all of it":        {RevokeQuery{Device: "S1", All: true}, "cessationOfOperation", []*gateway.Certificate{one, two, three}, 200, ""},
		"nothing":          {RevokeQuery{}, "", nil, 400, "one of serial, transaction and device"},
		"two":              {RevokeQuery{Serial: "01ab", Device: "S1"}, "", nil, 400, "one of serial, transaction and device"},
		"all alone":        {RevokeQuery{Serial: "01ab", All: true}, "", nil, 400, "all goes with device"},
		"issuer alone":     {RevokeQuery{Device: "S1", Issuer: "CN=x"}, "", nil, 400, "issuer goes with serial"},
		"no reason":        {RevokeQuery{Serial: "01ab"}, "lost", nil, 400, `"lost" is no reason: unspecified, keyCompromise`},
		"take back":        {RevokeQuery{Serial: "01ab"}, "removeFromCRL", nil, 400, "is no reason"},
		"hold":             {RevokeQuery{Serial: "01ab"}, "certificateHold", nil, 400, "is no reason"},
		"not used":         {RevokeQuery{Serial: "01ab"}, "7", nil, 400, "is no reason"},
	} {
		t.Run(name, func(t *testing.T) {
			reset()
			got, err := c.Revoke(t.Context(), x.query, x.reason, "lost on the way")
			if x.status != 200 {
				if status(err) != x.status || !strings.Contains(err.Error(), x.why) || len(s.audit) != 0 {
					t.Errorf("%v, %v", err, s.audit)
				}
				return
			}
			if err != nil || len(got.Revoked) != len(x.want) || len(s.audit) != len(x.want) {
				t.Fatalf("%+v, %v", got, err)
			}
			for i, want := range x.want {
				reason := crlReason(want.Revocation)
				if want.RevokedAt.IsZero() || !strings.EqualFold(reason, x.reason) && x.reason != "" || got.Revoked[i].Told != (want != three) || got.Revoked[i].Already || s.audit[i].Note != reason+": lost on the way" || !strings.HasPrefix(s.audit[i].Actor, "unix:") {
					t.Errorf("%+v, %+v, %+v", want, got.Revoked[i], s.audit[i])
				}
			}
		})
	}
	reset()
	is := one.Backend
	one.Backend = "deaf"
	if got, err := c.Revoke(t.Context(), RevokeQuery{Serial: "01ab"}, "", ""); err != nil || !got.Revoked[0].Alone || got.Revoked[0].Told {
		t.Errorf("a CA that takes no revocations: %+v, %v", got, err)
	}
	one.Backend = is
	reset()
	for _, before := range []bool{false, true} {
		if got, err := c.Revoke(t.Context(), RevokeQuery{Serial: "01ab"}, "superseded", ""); err != nil || got.Revoked[0].Already != before || s.audit[0].Note != "superseded" {
			t.Errorf("again: %+v, %v, %+v", got, err, s.audit)
		}
	}
	reset()
	if _, err := c.Revoke(t.Context(), RevokeQuery{Device: "S1", All: true}, "", "fire"); status(err) != 503 || !strings.Contains(err.Error(), "1 of 3 certificates are revoked, then") {
		t.Errorf("half of them: %v", err)
	}
	_, err = c.Revoke(t.Context(), RevokeQuery{Device: "S1"}, "", "")
	if e, ok := errors.AsType[*Error](err); !ok || strings.Join(e.Candidates, " ") != "01ab 02 02" {
		t.Errorf("candidates: %v", err)
	}
	if !s.asked.ValidAt.After(noon.Add(-time.Second)) {
		t.Errorf("asked for %+v", s.asked)
	}
	s.certs = nil
	if _, err := c.Revoke(t.Context(), RevokeQuery{Device: "S1", All: true}, "", ""); status(err) != 404 {
		t.Errorf("none: %v", err)
	}
}
