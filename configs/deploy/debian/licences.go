// Command licences writes what the copyright file of a package has to say of the modules that a program is linked with, and of Go: who they are,
// and the licences and notices that they come with, from the module cache. Equal input gives equal output.
//
//	go run ./configs/deploy/debian PROGRAM
//
// Texts that Debian has in /usr/share/common-licenses are named, not copied (Debian Policy section 12.5).
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: licences PROGRAM")
		os.Exit(2)
	}
	var out bytes.Buffer
	err := write(&out, os.Args[1])
	if err == nil {
		_, err = os.Stdout.Write(out.Bytes())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

// text is one licence or notice, and the modules that have it.
type text struct {
	body string
	of   []string
}

// common are the licences that every Debian has, by words of theirs, in small letters, in this order.
var common = []struct {
	name string
	says []string
}{
	{"Apache-2.0", []string{"apache license version 2.0, january 2004", "9. accepting warranty or additional liability"}},
	{"MPL-2.0", []string{"mozilla public license", "version 2.0", "1.1. “contributor”", "10.4. distributing source code form that is incompatible with secondary licenses"}},
}

// file is a name that licences and notices have at the root of a module.
var file = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice|patents|unlicense|third.?party)([-._].*)?$`)

func write(w io.Writer, program string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	type module struct{ name, dir string }
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	all := []module{{"Go's standard library, " + info.GoVersion, strings.TrimSpace(string(root))}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		dir, err := folder(m.Path + "@" + m.Version)
		if err != nil {
			return err
		}
		all = append(all, module{m.Path + " " + m.Version, dir})
	}
	texts := map[[sha256.Size]byte]*text{}
	var order [][sha256.Size]byte
	for _, m := range all {
		found, err := read(m.dir)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		for _, body := range found {
			sum := sha256.Sum256([]byte(body))
			if texts[sum] == nil {
				texts[sum] = &text{body: body}
				order = append(order, sum)
			}
			if t := texts[sum]; !slices.Contains(t.of, m.name) {
				t.of = append(t.of, m.name)
			}
		}
	}
	for _, sum := range order {
		t := texts[sum]
		fmt.Fprintf(w, "%s\n\n", strings.Repeat("-", 78))
		for _, name := range t.of {
			fmt.Fprintf(w, "  %s\n", name)
		}
		fmt.Fprintf(w, "\n%s\n\n", t.body)
	}
	return nil
}

// folder is where the module cache has a module, which is fetched if it is not there.
func folder(module string) (string, error) {
	out, err := exec.Command("go", "mod", "download", "-json", module).Output()
	var m struct{ Dir, Error string }
	if bad := json.Unmarshal(out, &m); bad != nil || m.Dir == "" {
		return "", fmt.Errorf("%s: %w", module, errors.Join(errors.New(m.Error), err, bad))
	}
	return m.Dir, nil
}

// read are the licences and notices at the root of a module; one without any is an error.
func read(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	licensed := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !file.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		licensed = licensed || !regexp.MustCompile(`(?i)^(notice|patents)`).MatchString(e.Name())
		if body := shortened(string(b)); body != "" {
			found = append(found, body)
		}
	}
	if !licensed {
		return nil, &fs.PathError{Op: "looking for a licence", Path: dir, Err: fs.ErrNotExist}
	}
	return found, nil
}

var blank = regexp.MustCompile(`\s+`)

// shortened is a text, or where Debian has it.
func shortened(body string) string {
	plain := strings.NewReplacer(`"contributor"`, "“contributor”").Replace(strings.ToLower(blank.ReplaceAllString(body, " ")))
	for _, c := range common {
		rest, ok := plain, true
		for _, words := range c.says {
			if _, rest, ok = strings.Cut(rest, words); !ok {
				break
			}
		}
		if ok {
			return c.name + ": /usr/share/common-licenses/" + c.name
		}
	}
	lines := strings.Split(strings.ReplaceAll(body, "\r\n", "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \t")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}
