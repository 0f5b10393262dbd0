package command

import "syscall"

// attributes gives a program a process group of its own, and has it die with us: no run goes on under a plugin that was killed, of
// whose end nobody would know.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
