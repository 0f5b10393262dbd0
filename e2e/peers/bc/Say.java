import org.bouncycastle.asn1.cmp.PKIFreeText;
import org.bouncycastle.asn1.cmp.PKIStatusInfo;

/** What the program saw, a line each: "name: value". */
final class Say {
    private static final String[] FAILURES = {
        "badAlg", "badMessageCheck", "badRequest", "badTime", "badCertId", "badDataFormat", "wrongAuthority", "incorrectData", "missingTimeStamp", "badPOP",
        "certRevoked", "certConfirmed", "wrongIntegrity", "badRecipientNonce", "timeNotAvailable", "unacceptedPolicy", "unacceptedExtension",
        "addInfoNotAvailable", "badSenderNonce", "badCertTemplate", "signerNotTrusted", "transactionIdInUse", "unsupportedVersion", "notAuthorized",
        "systemUnavail", "systemFailure", "duplicateCertReq"};

    static void it(String name, Object value) {
        System.out.println(name + ": " + value);
    }

    /** Ends the program where the server does what it must not. */
    static void must(boolean holds, String otherwise) {
        if (!holds) {
            throw new IllegalStateException(otherwise);
        }
    }

    /** PKIStatus by its number, the failure by its name, and what is told to people. */
    static int status(PKIStatusInfo s) {
        it("status", s.getStatus());
        if (s.getFailInfo() != null) {
            // The encoding is that of a named bit list: bit 0 is the first one of the first byte.
            byte[] bits = s.getFailInfo().getBytes();
            for (int i = 0; i < bits.length * 8; i++) {
                if ((bits[i / 8] & 0x80 >> i % 8) != 0) {
                    it("failInfo", FAILURES[i]);
                }
            }
        }
        PKIFreeText text = s.getStatusString();
        if (text != null) {
            it("statusString", text.getStringAtUTF8(0).getString());
        }
        return s.getStatus().intValueExact();
    }
}
