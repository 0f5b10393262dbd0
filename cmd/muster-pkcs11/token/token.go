//go:build cgo

package token

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/muster-pki/muster/plugins/backend/strictyaml"
)

// Config says which token to open.
type Config struct {
	Module      string            // path of the shared library
	Label       string            // of the token
	PINFile     string            // with the user's PIN, which only its owner and group may read
	Environment map[string]string // of the module
	Log         *slog.Logger
	// Hung is called when a call into the module has not come back for hungAfter: it never will, and nothing here can end it.
	Hung func()
}

const (
	sessions   = 16               // at most, and so calls into the module at once
	waitFor    = 10 * time.Second // for one of them
	hungAfter  = time.Minute
	againAfter = time.Second // between two tries to open a token that could not be opened
	maxPIN     = 256         // octets
)

// Token is a token that is open, or opens again by itself when it was away. Calls are concurrent.
type Token struct {
	c      Config
	module *pkcs11.Ctx
	turns  chan struct{} // one for each session that may be open

	mu      sync.RWMutex // read by those who call the module, written by who opens it
	slot    uint
	most    int   // sessions that the token allows, and no more than the constant
	opened  int   // how often; 0: never
	down    error // why it is not open
	tried   time.Time
	wrong   [sha256.Size]byte // hash of a PIN that the token refused: it is not tried again, since the token counts
	mechs   map[uint]bool     // that decrypt
	closed  bool
	idle    []pkcs11.SessionHandle // under freeing
	freeing sync.Mutex
}

var (
	// ErrUnavailable marks an error of a token that is away, or does not answer as it should: it may come back.
	ErrUnavailable = errors.New("the token is not available")
	// ErrNoKey marks that of a label that no private key has.
	ErrNoKey = errors.New("there is no private key with this label in the token")
)

// Open loads the module and logs in. A process has one Token of a module at a time: they would share its sessions.
func Open(c Config) (*Token, error) {
	for name, value := range c.Environment {
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(c.Module); err != nil {
		return nil, fmt.Errorf("module: %w", err)
	}
	t := &Token{c: c, module: pkcs11.New(c.Module)}
	if t.module == nil {
		return nil, fmt.Errorf("module: %s is no PKCS #11 library, or one of its own libraries is missing (ldd %s)", c.Module, c.Module)
	}
	if t.c.Log == nil {
		t.c.Log = slog.New(slog.DiscardHandler)
	}
	if t.c.Hung == nil {
		t.c.Hung = func() {}
	}
	if err := t.open(0); err != nil {
		_ = t.module.Finalize()
		return nil, err
	}
	t.turns = make(chan struct{}, t.most)
	return t, nil
}

// open opens the token, unless somebody has since it was opened for the seen-th time.
func (t *Token) open(seen int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return fmt.Errorf("%w: it was closed", ErrUnavailable)
	case t.opened != seen && t.down == nil:
		return nil
	case t.down != nil && time.Since(t.tried) < againAfter:
		return t.down
	case t.opened > 0 && t.down == nil && time.Since(t.tried) < againAfter:
		// An error that opening does not mend must not end the sessions of all others again and again.
		return fmt.Errorf("%w: it was opened a moment ago, and fails again", ErrUnavailable)
	}
	was := t.down
	t.down = t.login()
	t.tried = time.Now()
	if t.down != nil {
		t.down = fmt.Errorf("%w: %w", ErrUnavailable, t.down)
		if was == nil && t.opened > 0 {
			t.c.Log.Error("the token is away", "token", t.c.Label, "error", t.down)
		}
		return t.down
	}
	if t.opened++; t.opened > 1 {
		t.c.Log.Warn("the token was opened again", "token", t.c.Label)
	}
	return nil
}

// login starts the module anew, since some see a token that came back in no other way, and logs in. mu is held.
func (t *Token) login() error {
	pin, err := t.pin()
	if err != nil {
		return err
	}
	defer clear(pin)
	if t.opened > 0 || t.down != nil {
		t.idle = nil
		_ = t.module.Finalize() // ends every session; what it says of a device that is gone is of no use
	}
	if err := t.module.Initialize(); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return said("C_Initialize", err)
	}
	if t.slot, err = t.find(); err != nil {
		return err
	}
	info, err := t.module.GetTokenInfo(t.slot)
	if err != nil {
		return said("C_GetTokenInfo", err)
	}
	switch {
	case info.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return errors.New("the user's PIN is locked: the token's security officer can set another one")
	case info.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return errors.New("the token has one try left for the user's PIN: it is not used up here; log in by hand (pkcs11-tool --login), then start again")
	}
	t.most = sessions
	for _, n := range []uint{info.MaxSessionCount, info.MaxRwSessionCount} {
		if n > 0 && n < sessions { // 0: no bound; CK_UNAVAILABLE_INFORMATION is beyond
			t.most = min(t.most, max(1, int(n)-1)) // but for one that takes the place of one which failed
		}
	}
	s, err := t.module.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return said("C_OpenSession", err)
	}
	err = t.module.Login(s, pkcs11.CKU_USER, string(pin))
	switch {
	case err == nil, is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
	case is(err, pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE):
		t.wrong = sha256.Sum256(pin)
		return fmt.Errorf("the PIN in %s is not the token's (%v): it is not tried again before the file has another one", t.c.PINFile, err)
	default:
		return said("C_Login", err)
	}
	t.idle = []pkcs11.SessionHandle{s}
	t.mechs = map[uint]bool{}
	for _, m := range []uint{pkcs11.CKM_RSA_X_509, pkcs11.CKM_RSA_PKCS, pkcs11.CKM_RSA_PKCS_OAEP} {
		info, err := t.module.GetMechanismInfo(t.slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(m, nil)})
		t.mechs[m] = err == nil && info.Flags&pkcs11.CKF_DECRYPT != 0
	}
	return nil
}

// pin reads the PIN. Its errors do not quote it.
func (t *Token) pin() ([]byte, error) {
	text, err := strictyaml.ReadSecret("", t.c.PINFile, maxPIN)
	if err != nil {
		return nil, fmt.Errorf("pin: %w", err)
	}
	pin := []byte(strings.TrimRight(string(text), "\r\n"))
	clear(text)
	switch {
	case len(pin) == 0:
		return nil, fmt.Errorf("pin: %s is empty", t.c.PINFile)
	case sha256.Sum256(pin) == t.wrong:
		return nil, fmt.Errorf("the token has refused the PIN in %s: it is not tried again before the file has another one", t.c.PINFile)
	}
	return pin, nil
}

// find finds the slot of the token.
func (t *Token) find() (uint, error) {
	slots, err := t.module.GetSlotList(true)
	if err != nil {
		return 0, said("C_GetSlotList", err)
	}
	var labels []string
	var found []uint
	for _, slot := range slots {
		info, err := t.module.GetTokenInfo(slot)
		if err != nil {
			continue // one that is just being pulled out
		}
		label := strings.TrimRight(info.Label, " \x00")
		labels = append(labels, fmt.Sprintf("%q", label))
		if label == t.c.Label {
			found = append(found, slot)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return 0, fmt.Errorf("there is no token %q; there are: %s", t.c.Label, strings.Join(labels, ", "))
	}
	return 0, fmt.Errorf("%d tokens are named %q", len(found), t.c.Label)
}

// do calls fn with a session of its own. When the token turns out to be away it is opened again, and fn, if it may be, called
// again.
func (t *Token) do(again bool, fn func(m *pkcs11.Ctx, s pkcs11.SessionHandle) error) error {
	wait := time.NewTimer(waitFor)
	defer wait.Stop()
	select {
	case t.turns <- struct{}{}:
		defer func() { <-t.turns }()
	case <-wait.C:
		return fmt.Errorf("%w: all of its %d sessions are busy", ErrUnavailable, cap(t.turns))
	}
	hung := time.AfterFunc(hungAfter, t.c.Hung)
	defer hung.Stop()
	for try := 0; ; try++ {
		seen, err := t.call(fn)
		if err == nil || !lost(err) {
			return err
		}
		if failed := t.open(seen); failed != nil {
			return failed
		}
		if try > 0 || !again && seen > 0 {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
}

var errDown = errors.New("the token is not open")

// call calls fn once, and returns which opening of the token that was in; 0 when it was not open.
func (t *Token) call(fn func(m *pkcs11.Ctx, s pkcs11.SessionHandle) error) (seen int, err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.down != nil || t.closed {
		return 0, errDown
	}
	t.freeing.Lock()
	var s pkcs11.SessionHandle
	n := len(t.idle)
	if n > 0 {
		s, t.idle = t.idle[n-1], t.idle[:n-1]
	}
	t.freeing.Unlock()
	if n == 0 {
		if s, err = t.module.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
			return t.opened, said("C_OpenSession", err)
		}
	}
	err = fn(t.module, s)
	if err == nil || errors.Is(err, ErrNoKey) {
		t.freeing.Lock()
		t.idle = append(t.idle, s)
		t.freeing.Unlock()
	} else {
		// Whatever operation it left active ends with it. The login is the last session's: it stays while there is another.
		_ = t.fresh(s)
	}
	return t.opened, err
}

// fresh puts another session into the place of one that failed.
func (t *Token) fresh(s pkcs11.SessionHandle) error {
	other, err := t.module.OpenSession(t.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return t.module.CloseSession(s)
	}
	t.freeing.Lock()
	t.idle = append(t.idle, other)
	t.freeing.Unlock()
	return t.module.CloseSession(s)
}

// Close ends all sessions.
func (t *Token) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed, t.idle = true, nil
	if t.down != nil {
		return nil
	}
	return t.module.Finalize()
}

func said(call string, err error) error { return fmt.Errorf("%s: %w", call, err) }

func is(err error, codes ...uint) bool {
	e, ok := errors.AsType[pkcs11.Error](err)
	return ok && slices.Contains(codes, uint(e))
}

// lost reports whether an error means that the token has to be opened anew, as far as modules say what they mean.
func lost(err error) bool {
	return errors.Is(err, errDown) || is(err, pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_DEVICE_ERROR,
		pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED,
		pkcs11.CKR_HOST_MEMORY)
}
