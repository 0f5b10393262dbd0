package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/micromdm/plist"
)

const (
	udid7, serial7 = "00008030-001A2B3C4D5E802E", "F17XK2QZ0D"
	udid8, serial8 = "00008030-00FFEEDDCCBBAA99", "F17XK2QZ0E"
)

// profileService starts configs/ios-mdm.yaml as it stands, but for its addresses, the place of its data, and the device CA.
func profileService(t *testing.T, maker *deviceMaker, changes ...string) *instance {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	change := strings.NewReplacer(append(changes, "127.0.0.1:8080", "127.0.0.1:0", "127.0.0.1:8081", "127.0.0.1:0", "data/", "", "  ops:", "  https:", "[ops]", "[https]",
		"  scep:     ", "  http:     ", "[scep]", "[http]", "      final-profile:", "      device-ca: [maker.pem]\n      final-profile:")...)
	for from, to := range map[string]string{"ios-mdm.yaml": "gateway.yaml", "ios-mdm.mobileconfig": "ios-mdm.mobileconfig"} {
		text, err := os.ReadFile(filepath.Join("..", "configs", from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, to), []byte(change.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(data, "maker.pem"), []byte(maker.pem()), 0o600); err != nil {
		t.Fatal(err)
	}
	g := &instance{t: t, dir: data, env: map[string]string{}}
	t.Cleanup(func() { g.stop() })
	g.again()
	g.muster("device", "add", "phone-7", "--id", "udid="+udid7, "--id", "serial="+serial7)
	g.muster("device", "add", "phone-8", "--id", "udid="+udid8, "--id", "serial="+serial8)
	return g
}

// Apple's over-the-air enrollment, whole: phases 1 to 3, the second SCEP payload, renewal, and the check of MDM messages.
func TestIOSOverTheAir(t *testing.T) {
	maker := newDeviceMaker(t)
	g := profileService(t, maker)
	phone := maker.iPhone(g, udid7, serial7)

	// The certificates that it has to trust.
	trust := phone.profile(phone.reach("GET", "https://pki.example.com/ota/ota/trust", nil))
	roots := fileOf(t, g.dir, "ca/roots.pem")
	first := trust["PayloadContent"].([]any)[0].(map[string]any)
	if root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: first["PayloadContent"].([]byte)}); first["PayloadType"] != "com.apple.security.root" || !bytes.Contains(roots, root) {
		t.Errorf("the first certificate of the profile is no root of the CA: %v", first["PayloadDisplayName"])
	}

	url, challenge := phone.begin()
	g.again() // nothing of an enrollment under way is in memory
	recorded := phone.answer(phone.own, challenge)
	one := phone.identity(url, challenge)
	made := phone.profile(phone.post(url, phone.answer(one, "")))
	payloads := phone.final(made, one)
	var scep, mdm map[string]any
	for _, p := range payloads {
		switch d := p.(map[string]any); d["PayloadType"] {
		case "com.apple.security.scep":
			scep = d
		case "com.apple.mdm":
			mdm = d
		}
	}
	if scep == nil || mdm == nil || mdm["IdentityCertificateUUID"] != scep["PayloadUUID"] || mdm["PayloadDisplayName"] != "Management of phone-7" {
		t.Fatalf("SCEP payload %v, MDM payload %v", scep, mdm)
	}
	identity := phone.enrol(scep)
	if identity.cert.Subject.CommonName != "phone-7" || bytes.Equal(identity.cert.RawSubjectPublicKeyInfo, one.cert.RawSubjectPublicKeyInfo) {
		t.Errorf("the MDM identity: %s", identity.cert.Subject)
	}

	// Each challenge was good once, and the answer that was recorded gives no other.
	if a, _ := phone.ask(scep); a.status != "2" {
		t.Errorf("the second payload's challenge again: %v", a)
	}
	if status, _, body := phone.post(url, recorded); status != http.StatusForbidden || !strings.Contains(string(body), "begin again") {
		t.Errorf("the recorded answer of phase 2: %d %s", status, body)
	}

	// The check of MDM messages.
	status, header, body := phone.check(identity, udid7)
	if status != http.StatusOK || header.Get("Muster-Device") != "phone-7" || header.Get("Client-Cert") != ":"+base64.StdEncoding.EncodeToString(identity.cert.Raw)+":" {
		t.Errorf("the device's own message: %d %v %s", status, header, body)
	}
	report, err := plist.Marshal(map[string]any{"Status": "Idle", "UDID": udid7})
	if err != nil {
		t.Fatal(err)
	}
	status, _, body = phone.reach("PUT", "https://pki.example.com/ota/ota/check", report, "Mdm-Signature", base64.StdEncoding.EncodeToString(phone.opensslSigned(identity, report, true)))
	if status != http.StatusOK {
		t.Errorf("openssl's signature of a message: %d %s", status, body)
	}
	facts, err := plist.Marshal(phone.facts)
	if err != nil {
		t.Fatal(err)
	}
	ber := phone.opensslSigned(identity, facts, false)
	if ber[1] != 0x80 {
		t.Errorf("openssl's message is not of indefinite length: %x", ber[:4])
	}
	phone.final(phone.profile(phone.post(url, ber)), identity)

	other := maker.iPhone(g, udid8, serial8)
	othersURL, othersChallenge := other.begin()
	others := other.identity(othersURL, othersChallenge)
	stranger := signer{key: phone.own.key, cert: phone.own.cert}
	for name, got := range map[string]func() (int, http.Header, []byte){
		"a stranger's certificate":     func() (int, http.Header, []byte) { return phone.check(stranger, udid7) },
		"another device's certificate": func() (int, http.Header, []byte) { return phone.check(others, udid7) },
		"nobody's UDID":                func() (int, http.Header, []byte) { return phone.check(identity, "00008030-0000000000000000") },
		"another body": func() (int, http.Header, []byte) {
			return phone.check(identity, udid7, func(b []byte) []byte { return bytes.Replace(b, []byte("TokenUpdate"), []byte("CheckOut"), 1) })
		},
		"no signature": func() (int, http.Header, []byte) {
			return phone.reach("PUT", "https://pki.example.com/ota/ota/check", []byte("<plist/>"))
		},
	} {
		if status, header, body := got(); status != http.StatusForbidden || header.Get("Client-Cert") != "" {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}

	// Renewal by the old identity, without a challenge; the new one is the device's, too.
	a, renewed := phone.renew(identity, "https://pki.example.com/scep/phones")
	if a.status != "0" {
		t.Fatal(a)
	}
	for name, s := range map[string]signer{"the renewed identity": renewed, "the old one, which the device uses until it has the new one": identity} {
		if status, _, body := phone.check(s, udid7); status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}

	// A certificate that is revoked, and a device that is disabled.
	g.muster("revoke", "--yes", strings.ToLower(renewed.cert.SerialNumber.Text(16)))
	if status, _, body := phone.check(renewed, udid7); status != http.StatusForbidden {
		t.Errorf("a revoked identity: %d %s", status, body)
	}
	g.muster("device", "disable", "phone-7")
	url, challenge = phone.begin()
	for name, message := range map[string][]byte{"phase 2": phone.answer(phone.own, challenge), "phase 3": phone.answer(one, "")} {
		if status, _, body := phone.post(url, message); status != http.StatusForbidden {
			t.Errorf("a disabled device, %s: %d %s", name, status, body)
		}
	}
	if status, _, body := phone.check(identity, udid7); status != http.StatusForbidden {
		t.Errorf("a disabled device, check: %d %s", status, body)
	}
}

// A device that the inventory knows by its serial number alone enrols; a message of the MDM protocol names a UDID, and one that the
// entry does not have is nobody's: else each such device could pass for any whose UDID the inventory does not have.
func TestIOSKnownBySerialNumber(t *testing.T) {
	maker := newDeviceMaker(t)
	g := profileService(t, maker, "[identifier.udid, device]", "[identifier.serial, device]")
	g.muster("device", "add", "phone-9", "--id", "serial=F17XK2QZ0F")
	const udid9 = "00008030-000000000000009A"
	phone := maker.iPhone(g, udid9, "F17XK2QZ0F")
	url, challenge := phone.begin()
	one := phone.identity(url, challenge)
	phone.final(phone.profile(phone.post(url, phone.answer(one, ""))), one)
	for name, udid := range map[string]string{"its own": udid9, "any": "00008030-0000000000000001", "another device's": udid7} {
		if status, header, body := phone.check(one, udid); status != http.StatusForbidden || header.Get("Muster-Device") != "" {
			t.Errorf("%s UDID: %d %s", name, status, body)
		}
	}
	g.muster("device", "add", "phone-9", "--replace", "--id", "serial=F17XK2QZ0F", "--id", "udid="+udid9)
	if status, _, body := phone.check(one, udid9); status != http.StatusOK {
		t.Errorf("with the UDID entered: %d %s", status, body)
	}
}

// Who gets no profile.
func TestIOSRefused(t *testing.T) {
	maker, stranger := newDeviceMaker(t), newDeviceMaker(t)
	g := profileService(t, maker)
	phone := maker.iPhone(g, udid7, serial7)
	url, challenge := phone.begin()
	one := phone.identity(url, challenge)
	refused := func(name string, p *iPhone, by signer, challenge, why string) {
		t.Helper()
		if status, _, body := p.post(url, p.answer(by, challenge)); status != http.StatusForbidden || !strings.Contains(string(body), why) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	_, challenge = phone.begin()
	refused("no challenge", phone, phone.own, "", "lacks the CHALLENGE")
	refused("a challenge of nobody's", phone, phone.own, strings.Repeat("A", 54), "fetch it anew")
	refused("an unknown device", maker.iPhone(g, "00008030-0000000000000000", "F00000000000"), maker.iPhone(g, "x", "y").own, challenge, "not in the inventory")
	if why := g.muster("explain", "--last"); !strings.Contains(why, "A device with its maker's certificate") || !strings.Contains(why, "F00000000000") {
		t.Errorf("explain says of an unknown device: %s", why)
	}
	refused("two devices", maker.iPhone(g, udid7, serial8), phone.own, challenge, "not those of one device")
	if why := g.muster("explain", "--last"); !strings.Contains(why, serial8) || !strings.Contains(why, "phone-8") || !strings.Contains(why, "device-certificate") {
		t.Errorf("explain says of two devices: %s", why)
	}
	refused("another maker's device", phone, stranger.iPhone(g, udid7, serial7).own, challenge, "not issued here")
	refused("another device's certificate", maker.iPhone(g, udid8, serial8), one, "", "two devices")

	// An MDM message is no answer to a profile, whoever signed it.
	body, err := plist.Marshal(map[string]any{"MessageType": "Authenticate", "UDID": udid7, "SERIAL": serial7})
	if err != nil {
		t.Fatal(err)
	}
	if status, _, b := phone.post(url, one.signed(t, body, false)); status != http.StatusBadRequest {
		t.Errorf("an MDM message: %d %s", status, b)
	}
	// Nor is an answer to a profile an MDM message.
	answer, err := plist.Marshal(phone.facts)
	if err != nil {
		t.Fatal(err)
	}
	status, _, b := phone.reach("POST", "https://pki.example.com/ota/ota/check", answer, "Mdm-Signature", base64.StdEncoding.EncodeToString(one.signed(t, answer, true)))
	if status != http.StatusForbidden {
		t.Errorf("an answer to a profile as an MDM message: %d %s", status, b)
	}
}
