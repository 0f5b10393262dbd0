// Command elf says of programs whether each is what its name ends with (amd64, arm64), and static; else it ends with 1.
package main

import (
	"debug/elf"
	"fmt"
	"os"
	"strings"
)

func main() {
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			os.Exit(1)
		}
		fmt.Println(path + ": static, of its architecture")
	}
}

func check(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	want := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[path[strings.LastIndex(path, "-")+1:]]
	if f.Machine != want || f.Class != elf.ELFCLASS64 {
		return fmt.Errorf("it is for %s", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("it is linked dynamically")
		}
	}
	return nil
}
