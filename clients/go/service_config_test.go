package keys

import (
	"os"
	"strings"
	"testing"
)

func TestTheServiceConfigIsThatOfTheService(t *testing.T) {
	recommended, err := os.ReadFile("../../docs/service-config.json")
	if os.IsNotExist(err) {
		t.Skip("this is not the repository of the service")
	}
	if err != nil || string(recommended) != serviceConfig {
		t.Fatal("run `go generate`", err)
	}
}

func TestFollowEventsKeepsItsDeadline(t *testing.T) {
	if timed := strings.Count(withoutTimeouts(), `"timeout"`); timed != 1 {
		t.Fatal(timed, "groups of methods have deadlines")
	}
}
