package est

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/muster-pki/muster/gateway"
)

// The endpoint of SEC#17.2's proposal: csrattrs names the identifier of who has logged in, or shown a certificate; others are asked to
// log in, as clients of Digest have to be. cacerts is everybody's.
func TestMEFPasswordCSRAttrs(t *testing.T) {
	w, _ := mefWorld(t, Config{})
	plant := w.handler.endpoints["plant"]
	plant.Config.Type = TypeMEFPassword
	w.gateway.accepts = true
	mine, key := w.device("ae")
	w.gateway.registered = func(credentials []gateway.Credential) (*gateway.Registration, *gateway.Error) {
		if c := credentials[0]; len(credentials) == 1 && (c.Kind == gateway.CredentialTLS || c.Kind == gateway.CredentialPassword && c.ID == "ae" && string(c.Secret) == "right") {
			return &gateway.Registration{Type: gateway.KindAEID, Value: "x"}, nil
		}
		return nil, gateway.Errorf(gateway.Unauthenticated, "user name or password is wrong", "wrong")
	}
	identity := []byte{0x06, 3, 0x55, 0x1d, 0x11, 4, 4, 0x30, 2, 0x86, 0} // an empty URI
	ask := func(client *http.Client, user, password string) *http.Response {
		r := w.request(http.MethodGet, root+"/plant/csrattrs", nil)
		if user != "" {
			r.SetBasicAuth(user, password)
		}
		got := send(t, client, r)
		if got.StatusCode == 200 {
			der, err := base64.StdEncoding.DecodeString(got.body)
			if err != nil {
				t.Fatal(err)
			}
			got.Header.Set("X-Identity", map[bool]string{true: "named"}[bytes.Contains(der, identity)])
			got.Header.Set("X-Linked", map[bool]string{true: "linked"}[strings.HasPrefix(asked(t, der), oidChallengePassword.String())])
		}
		return got.Response
	}
	for _, linked := range []string{"", "linked"} {
		w.gateway.linked = linked != ""
		for _, c := range []struct {
			name             string
			client           *http.Client
			user, password   string
			status           int
			identity, linked string
		}{
			{"nobody yet", w.client(nil, nil, nil), "", "", 401, "", ""},
			{"a user", w.client(nil, nil, nil), "ae", "right", 200, "named", linked},
			{"a certificate", w.client(mine, key, nil), "", "", 200, "named", linked},
			{"a wrong password", w.client(nil, nil, nil), "ae", "wrong", 401, "", ""},
		} {
			got := ask(c.client, c.user, c.password)
			if got.StatusCode != c.status || got.Header.Get("X-Identity") != c.identity || got.Header.Get("X-Linked") != c.linked {
				t.Errorf("%s: %d, identity %q, linked %q, want %+v", c.name, got.StatusCode, got.Header.Get("X-Identity"), got.Header.Get("X-Linked"), c)
			}
		}
	}
	if got := send(t, w.client(nil, nil, nil), w.request(http.MethodGet, root+"/plant/cacerts", nil)); got.StatusCode != 200 {
		t.Errorf("cacerts: %d %s", got.StatusCode, got.body)
	}
}

func TestMEFPasswordSettings(t *testing.T) {
	for says, c := range map[string]Config{
		"challenge: it is for `type: onem2m-mef` alone": {Type: TypeMEFPassword, Challenge: ChallengeSupplied},
		"csrattrs: none": {Type: TypeMEFPassword, CSRAttrs: CSRAttrsNone},
		"allow:":         {Type: TypeMEFPassword, Allow: []Allow{"x"}},
	} {
		if err := c.check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if err := (Config{Type: TypeMEFPassword, HTTPAuth: []HTTPAuth{HTTPAuthDigest}, Allow: []Allow{AllowUnconstrainedCA}}).check(); err != nil {
		t.Error(err)
	}
}
