package admin

import (
	"testing"
)

func peopled(people map[string][]string) *RemoteConfig {
	return &RemoteConfig{
		Address: "127.0.0.1:1", ClientCA: "ca.pem", Certificates: map[string]string{"CN=alice, O=Ops": "approver"}, Tokens: "tokens", People: people,
		Console: &ConsoleConfig{OIDC: &OIDCConfig{Issuer: "https://idp.example", ClientID: "muster", URL: "https://muster.example", Roles: map[string]string{"ops": "admin"}}},
	}
}

// Whoever has several ways in is one person, and one approver, whichever it is.
func TestPeople(t *testing.T) {
	c := peopled(map[string][]string{"Alice": {"cert:cn=alice,O=Ops", "oidc:alice", "token:alice"}})
	if key, err := c.Check(); err != nil {
		t.Fatal(key, err)
	}
	all, _, _ := c.people()
	a := &Access{people: all}
	for way, want := range map[string]string{
		"cert:CN=alice,O=Ops": "person:Alice", "oidc:alice": "person:Alice", "token:alice": "person:Alice", "oidc:bob": "oidc:bob", "oidc:Alice": "oidc:Alice",
	} {
		if got := a.Named(way); got != want {
			t.Errorf("%s is %s, want %s", way, got, want)
		}
	}
}

func TestPeopleRefused(t *testing.T) {
	for name, c := range map[string]*RemoteConfig{
		"no kind":           peopled(map[string][]string{"alice": {"alice"}}),
		"unknown kind":      peopled(map[string][]string{"alice": {"unix:alice"}}),
		"no name":           peopled(map[string][]string{"alice": {"oidc:"}}),
		"two persons' way":  peopled(map[string][]string{"alice": {"oidc:alice"}, "bob": {"oidc:alice"}}),
		"twice":             peopled(map[string][]string{"alice": {"cert:CN=alice,O=Ops", "cert:CN=alice, O=Ops"}}),
		"not an operator's": peopled(map[string][]string{"alice": {"cert:CN=carol,O=Ops"}}),
		"an odd name":       peopled(map[string][]string{"al\u202eice": {"oidc:alice"}}),
		"spaces":            peopled(map[string][]string{"alice ": {"oidc:alice"}}),
	} {
		if key, err := c.Check(); err == nil || len(key) != 2 || key[0] != "people" {
			t.Errorf("%s: %v %v", name, key, err)
		}
	}
	c := peopled(map[string][]string{"alice": {"oidc:alice"}})
	c.Console = nil
	if _, err := c.Check(); err == nil {
		t.Error("a provider that there is not")
	}
	c = peopled(map[string][]string{"alice": {"token:alice"}})
	c.Tokens = ""
	if _, err := c.Check(); err == nil {
		t.Error("tokens that there are not")
	}
}
