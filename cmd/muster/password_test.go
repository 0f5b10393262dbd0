package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// What is typed is hidden as long as a password is asked for, and no longer: not even when a signal ends the program in between.
func TestHideInput(t *testing.T) {
	_, program := pseudoTerminal(t)
	terminal := int(program.Fd())
	shows := func() bool {
		t.Helper()
		now, err := unix.IoctlGetTermios(terminal, unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return now.Lflag&unix.ECHO != 0
	}
	ended := make(chan os.Signal)
	for _, interrupted := range []bool{false, true} {
		show, err := hideInput(terminal, func(s os.Signal) { ended <- s })
		if err != nil || shows() {
			t.Fatalf("%v, shows %v", err, shows())
		}
		if interrupted {
			if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if s := <-ended; s != unix.SIGTERM || !shows() {
				t.Errorf("%v, shows %v", s, shows())
			}
		}
		if show(); !shows() {
			t.Errorf("interrupted %v: the terminal stays mute", interrupted)
		}
	}
}
