package admin

import (
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

func TestSettle(t *testing.T) {
	const certificate = "-----BEGIN CERTIFICATE-----\nAQI=\n-----END CERTIFICATE-----\n"
	s := &source{stored: []*gateway.Transaction{transaction(1, gateway.StateStuck, nil), transaction(2, gateway.StateStuck, nil), transaction(3, gateway.StateIssued, nil)}}
	c, _ := serve(t, s)
	got, err := c.Settle(t.Context(), id(1), Finding{Certificate: certificate + certificate, Note: "in its database"})
	if err != nil || got.State != "issued" || !strings.HasPrefix(s.approved, "settle 2+1 "+id(1)+" unix:") || !strings.HasSuffix(s.approved, " in its database") {
		t.Errorf("%+v, %v, %q", got, err, s.approved)
	}
	if got, err = c.Settle(t.Context(), id(2), Finding{Never: true}); err != nil || got.State != "failed" || !strings.HasPrefix(s.approved, "settle nothing "+id(2)+" unix:") {
		t.Errorf("%+v, %v, %q", got, err, s.approved)
	}
	for name, c2 := range map[string]struct {
		id     string
		f      Finding
		status int
		want   string
	}{
		"neither":         {id(2), Finding{}, 400, "one of certificate and never"},
		"both":            {id(2), Finding{Certificate: certificate, Never: true}, 400, "one of certificate and never"},
		"no PEM":          {id(2), Finding{Certificate: "AQI="}, 400, "no PEM"},
		"something after": {id(2), Finding{Certificate: certificate + "x"}, 400, "no PEM"},
		"a key":           {id(2), Finding{Certificate: strings.ReplaceAll(certificate, "CERTIFICATE", "PRIVATE KEY")}, 400, `PEM of type "PRIVATE KEY"`},
		"many":            {id(2), Finding{Certificate: strings.Repeat(certificate, 12)}, 400, "others behind it"},
		"two lines":       {id(2), Finding{Never: true, Note: "a\nb"}, 400, "cannot be printed"},
		"late":            {id(3), Finding{Never: true, Note: "late"}, 409, ""},
		"nobody's":        {id(77), Finding{Never: true}, 404, ""},
	} {
		if _, err := c.Settle(t.Context(), c2.id, c2.f); status(err) != c2.status || !strings.Contains(err.Error(), c2.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
