package e2e

import (
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// iosStory is what no command line can do for docs/ios.md: the phone, which is the emulator of these tests, and Apple's device CA, which is not ours
// to sign with.
var iosStory = map[string]func(*telling){
	// Before the gateway starts: a maker in the place of Apple.
	"maker": func(a *telling) {
		a.maker = newDeviceMaker(a.t)
		a.put("maker.pem", []byte(a.maker.pem()))
		config := string(fileOf(a.t, a.dir, "ios-mdm.yaml"))
		a.put("ios-mdm.yaml", []byte(strings.Replace(config, "      final-profile:", "      device-ca: [maker.pem]\n      final-profile:", 1)))
	},
	// The phone opens the profile's URL and enrols: both certificates.
	"phone-enrols": func(a *telling) {
		a.g.env["MUSTER_HTTP"] = "http://127.0.0.1:" + a.ports["8081"]
		phone := a.maker.iPhone(a.g, udid7, serial7)
		url, challenge := phone.begin()
		one := phone.identity(url, challenge)
		for _, p := range phone.final(phone.profile(phone.post(url, phone.answer(one, ""))), one) {
			if p := p.(map[string]any); p["PayloadType"] == "com.apple.security.scep" {
				a.phone, a.identity = phone, phone.enrol(p)
			}
		}
		if a.phone == nil {
			a.t.Fatal("the final profile has no SCEP payload")
		}
		a.put("phone-7.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.identity.cert.Raw}))
	},
	"phone-renews": func(a *telling) {
		answer, next := a.phone.renew(a.identity, "https://pki.example.com/scep/phones")
		if answer.status != "0" {
			a.t.Fatal(answer)
		}
		a.put("phone-7.next.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: next.cert.Raw}))
	},
	// Another phone, as genuine as the first, which nobody has put into the inventory.
	"stranger-asks": func(a *telling) {
		stranger := a.maker.iPhone(a.g, udid8, serial8)
		url, challenge := stranger.begin()
		if status, _, body := stranger.post(url, stranger.answer(stranger.own, challenge)); status != http.StatusForbidden {
			a.t.Fatalf("%d %s", status, body)
		}
	},
}

// put writes a file into the story's folder.
func (a *telling) put(name string, content []byte) {
	a.t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, name), content, 0o600); err != nil {
		a.t.Fatal(err)
	}
}
