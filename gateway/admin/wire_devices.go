package admin

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"
)

// Device is an entry of the inventory. GET gives what POST takes, apart from what is marked.
type Device struct {
	Name        string            `json:"name"`
	Identifiers []Identifier      `json:"identifiers,omitempty"` // further names, each one device's only
	Vendor      string            `json:"vendor,omitempty"`
	Endpoints   []string          `json:"endpoints,omitempty"`   // where it may ask; none: everywhere
	Profiles    []string          `json:"profiles,omitempty"`    // what it may have, the first unless it asks for another; none: the endpoint's
	Enrollments Enrollments       `json:"enrollments,omitempty"` // how many first certificates it may have; absent: as many as the stage says
	NotBefore   *time.Time        `json:"not_before,omitempty"`  // of the entry; absent: at once
	NotAfter    *time.Time        `json:"not_after,omitempty"`   // of the entry; absent: for ever
	Disabled    bool              `json:"disabled,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"` // what templates and policies use
	Note        string            `json:"note,omitempty"`

	// Password is its one-time password, or "generate". Taken, never shown, but once where it was generated.
	Password string `json:"password,omitempty"`
	// PasswordHash takes the place of Password: "{sha256}" and hexadecimal digits, or "$argon2id$...". Taken, never shown.
	PasswordHash string `json:"password_hash,omitempty"`
	// Secret is the key of its MACs, 8 to 1024 bytes, base64. Taken, never shown.
	Secret []byte `json:"secret,omitempty"`

	// HasPassword and HasSecret are shown. Where they are given and Password and Secret are not, what stands is kept;
	// an entry that replaces another has neither otherwise.
	HasPassword bool `json:"has_password,omitempty"`
	HasSecret   bool `json:"has_secret,omitempty"`
	// What follows is shown; where it is given, it is passed over.
	Enrolled int64 `json:"enrolled,omitempty"` // enrollments that are used up
	// Limits is what the stage limits has counted of it: "active" certificates, and those issued in a time ("issued:24h").
	Limits       map[string]int64 `json:"limits,omitempty"`
	PasswordUsed bool             `json:"password_used,omitempty"` // the one-time password is spent
	Created      *time.Time       `json:"created,omitempty"`
	Updated      *time.Time       `json:"updated,omitempty"`
}

// Identifier is one of a device's names.
type Identifier struct {
	Kind  string `json:"kind"` // "serial", "imei", "udid", "mac", "cse-id", "ae-id", ...
	Value string `json:"value"`
}

// Enrollments is a number, or Unlimited, which is "unlimited" in JSON.
type Enrollments int

// Unlimited is any number of enrollments.
const Unlimited Enrollments = -1

const unlimited = "unlimited"

// String is "unlimited" or the number.
func (e Enrollments) String() string {
	if e == Unlimited {
		return unlimited
	}
	return strconv.Itoa(int(e))
}

// MarshalJSON is json.Marshaler.
func (e Enrollments) MarshalJSON() ([]byte, error) {
	if e == Unlimited {
		return json.Marshal(unlimited)
	}
	return json.Marshal(int(e))
}

// UnmarshalJSON is json.Unmarshaler.
func (e *Enrollments) UnmarshalJSON(data []byte) error {
	if string(data) == `"`+unlimited+`"` {
		*e = Unlimited
		return nil
	}
	n, err := strconv.ParseInt(string(data), 10, 32)
	if err != nil || n < 0 {
		return errEnrollments
	}
	*e = Enrollments(n)
	return nil
}

var errEnrollments = errors.New(`enrollments is a number from 0 on, or "unlimited"`)

// DeviceList is the answer to GET /v1/devices.
type DeviceList struct {
	Devices []Device `json:"devices"`        // by name
	Next    string   `json:"next,omitempty"` // for `after`, when there may be more
}

// DeviceState is the body of POST /v1/devices/{name}/state.
type DeviceState struct {
	Disabled bool `json:"disabled"`
}

// ImportLine is one line of the answer to POST /v1/devices/import. The last one has Result or Failure.
type ImportLine struct {
	Done    int           `json:"done"`
	Total   int           `json:"total"`
	Result  *ImportResult `json:"result,omitempty"`
	Failure *Failure      `json:"failure,omitempty"` // nothing was imported
}

// ImportResult says what an import has done.
type ImportResult struct {
	Added    int `json:"added"`
	Replaced int `json:"replaced"`
}

// ImportFailure is one entry that cannot be imported.
type ImportFailure struct {
	Index int    `json:"index"` // of the entry in what was sent, from 0
	Error string `json:"error"`
}
