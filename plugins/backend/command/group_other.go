//go:build !linux

package command

import "syscall"

// attributes gives a program a process group of its own. It outlives a plugin that is killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
