package admin

import "fmt"

// Role is what somebody may do: each may what those before it may.
type Role int

const (
	nobody   Role = iota
	Viewer        // reads
	Approver      // approves and denies held requests, makes challenges, and passes CMP messages on
	Admin         // everything
)

var roleNames = [...]string{"nobody", "viewer", "approver", "admin"}

// String is the role's name in configurations.
func (r Role) String() string {
	if r < nobody || r > Admin {
		return roleNames[nobody]
	}
	return roleNames[r]
}

// ParseRole reads a role's name.
func ParseRole(s string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if r.String() == s {
			return r, nil
		}
	}
	return nobody, fmt.Errorf("%q is no role: viewer, approver or admin", s)
}
