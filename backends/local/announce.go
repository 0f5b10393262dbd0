package local

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/muster-pki/muster/plugins/backend"
)

const announcedSuffix = ".next"

// announcedDir is the folder of a generation that is announced and not in force: what generationDir holds, and the ledger
// does not know of it; one that replicas share has its hash. Putting it in force copies it, with another originFile, to its place among the generations.
func announcedDir(dir, ca string) string { return filepath.Join(dir, ca+announcedSuffix) }

// readAnnounced reads the generation that is announced, if one is. One that a crash left behind when it came into force is none.
func (i *issuer) readAnnounced(keys keyring, dir string) error {
	path := announcedDir(dir, i.name)
	there, err := exists(path)
	if err != nil || !there {
		return err
	}
	text, err := os.ReadFile(filepath.Join(path, issuingFile))
	if err != nil {
		return err
	}
	for _, g := range i.all {
		if bytes.Equal(text, certificatePEM(g.cert)) {
			return nil
		}
	}
	if i.announced, err = readGeneration(keys, path, i.name, i.number+1, i.generation); err != nil {
		return err
	}
	if i.announced.origin.Announced == "" {
		return fmt.Errorf("%s was not announced", path)
	}
	return nil
}

// announcedFiles are those of the announced generation, to be put in force as it was announced. Its errors are for the operator
// to act on.
func (i *issuer) announcedFiles(path string, q *backend.RolloverRequest) (map[string][]byte, error) {
	was := i.announced.origin
	if q.Announce || was.Kind != string(q.Kind) || was.Root != q.Root {
		root := ""
		if was.Root {
			root = " of the root"
		}
		return nil, fmt.Errorf("a %s%s is announced: put that in force first, or take it back as docs/rollover.md says", was.Kind, root)
	}
	files := map[string][]byte{}
	err := fs.WalkDir(os.DirFS(path), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files[name], err = os.ReadFile(filepath.Join(path, name))
		return err
	})
	if err != nil {
		return nil, err
	}
	now := originOf(q)
	now.Announced = was.Announced
	files[originFile], err = now.text()
	return files, err
}
