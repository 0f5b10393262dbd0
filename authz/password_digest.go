package authz

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"net/netip"
	"time"

	"github.com/muster-pki/muster/gateway"
	"github.com/muster-pki/muster/gateway/passhash"
)

// digestForms are a user's digest forms, by realm.
type digestForms map[string][]byte

// addDigest takes a digest form; taken is false for an entry of another form.
func (s *Password) addDigest(name, hash string) (taken bool, err error) {
	realm, ha1, ok, err := passhash.OpenDigest(hash, name, s.open)
	switch {
	case !ok:
		return false, nil
	case err != nil:
		return true, fmt.Errorf("user %q: %w", name, err)
	case bytes.Equal(ha1, passhash.HA1(name, realm, nil)):
		return true, fmt.Errorf("user %q has a digest form of an empty password", name)
	case s.digests[name][realm] != nil:
		return true, fmt.Errorf("user %q stands twice with a digest form for the realm %q", name, realm)
	}
	if s.digests[name] == nil {
		s.digests[name] = digestForms{}
	}
	s.digests[name][realm] = ha1
	return true, nil
}

// Digests reports whether some user has a digest form for the realm.
func (s *Password) Digests(realm string) bool {
	for _, forms := range s.digests {
		if forms[realm] != nil {
			return true
		}
	}
	return false
}

// checkProof compares the answer to a Digest challenge. Each try counts: a password with a digest form may be one that can be guessed.
// Where nobody has a form for the realm there is nothing to guess, and the users of another stage (in another branch of anyOf), whose
// answers are right there, do not use up the limit of those who log in here by Basic.
func (s *Password) checkProof(c gateway.Credential, source netip.Addr) (right bool, limited time.Duration) {
	if !s.Digests(c.Digest.Realm) {
		return false, 0
	}
	if wait, ok := s.limit.take(source, s.now()); !ok {
		return false, max(wait, 1)
	}
	ha1, known := s.digests[c.ID][c.Digest.Realm]
	if !known {
		ha1 = s.pick[:] // nobody's: no one is told from another by the work
	}
	if right = c.Digest.Matches(ha1) && known; right {
		s.limit.giveBack(source, s.now())
	}
	return right, 0
}

// matchesForm compares a password that was sent with the digest forms of a user who has no other form.
func (s *Password) matchesForm(user string, password []byte) bool {
	forms := s.digests[user]
	if s.users[user] != nil || forms == nil {
		forms = digestForms{"": s.pick[:]} // nobody's
	}
	found := 0
	for realm, ha1 := range forms {
		found |= subtle.ConstantTimeCompare(passhash.HA1(user, realm, password), ha1)
	}
	return found == 1
}

// wrong says for the operator what of a user name and password is.
func (s *Password) wrong(c gateway.Credential) string {
	user := shown(c.ID)
	switch {
	case s.users[c.ID] == nil && s.digests[c.ID] == nil:
		return "no user " + user
	case c.Digest != nil && s.digests[c.ID][c.Digest.Realm] == nil:
		return fmt.Sprintf("user %s has no digest form for the realm %s (muster password --digest)", user, shown(c.Digest.Realm))
	}
	return "wrong password for user " + user
}
