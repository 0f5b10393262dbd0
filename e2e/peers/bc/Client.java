import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.security.PrivateKey;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import org.bouncycastle.asn1.ASN1Encodable;
import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.DERSequence;
import org.bouncycastle.asn1.cmp.CMPObjectIdentifiers;
import org.bouncycastle.asn1.cmp.InfoTypeAndValue;
import org.bouncycastle.asn1.cmp.PBMParameter;
import org.bouncycastle.asn1.cmp.PKIBody;
import org.bouncycastle.asn1.cmp.PKIHeader;
import org.bouncycastle.asn1.cmp.PKIMessage;
import org.bouncycastle.asn1.nist.NISTObjectIdentifiers;
import org.bouncycastle.asn1.pkcs.PKCSObjectIdentifiers;
import org.bouncycastle.asn1.x500.RDN;
import org.bouncycastle.asn1.x500.X500Name;
import org.bouncycastle.asn1.x509.AlgorithmIdentifier;
import org.bouncycastle.asn1.x509.GeneralName;
import org.bouncycastle.asn1.x509.SubjectKeyIdentifier;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.cmp.GeneralPKIMessage;
import org.bouncycastle.cert.cmp.ProtectedPKIMessage;
import org.bouncycastle.cert.cmp.ProtectedPKIMessageBuilder;
import org.bouncycastle.cert.crmf.PKMACBuilder;
import org.bouncycastle.cert.crmf.jcajce.JcePKMACValuesCalculator;
import org.bouncycastle.operator.MacCalculator;
import org.bouncycastle.operator.PBEMacCalculatorProvider;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.operator.jcajce.JcaContentVerifierProviderBuilder;
import org.bouncycastle.pkcs.jcajce.JcePBMac1CalculatorBuilder;
import org.bouncycastle.pkcs.jcajce.JcePBMac1CalculatorProviderBuilder;

/**
 * Client is one end entity, or one RA, and its transaction: it protects what it sends, and believes an answer only when
 * BouncyCastle verifies its protection. Every violation of RFC 9810 section 5.1 ends the program.
 */
final class Client {
    private static final SecureRandom RANDOM = new SecureRandom();

    final String url;
    final String reference; // with a secret
    final char[] secret;
    final X509CertificateHolder certificate; // with a key
    final PrivateKey key;
    final String signature; // a JCA name, such as SHA256withRSAandMGF1
    final List<X509CertificateHolder> roots;
    final String mac; // pbm; pbmac1 by the JDK, or pbmac1-bc
    int version = PKIHeader.CMP_2000;
    byte[] transaction = random(16);
    byte[] nonce; // of the last message that was sent
    byte[] peer; // the senderNonce of the last answer
    List<X509CertificateHolder> received = new ArrayList<>(); // extraCerts of the last answer
    final List<InfoTypeAndValue> info = new ArrayList<>();

    Client(Options o) throws Exception {
        url = o.need("url");
        reference = o.get("ref");
        secret = o.get("secret") == null ? null : o.get("secret").toCharArray();
        mac = o.get("mac", "pbm");
        certificate = o.get("cert") == null ? null : Files.certificates(o.get("cert")).get(0);
        key = o.get("key") == null ? null : Files.key(o.get("key"));
        signature = o.get("sig") != null ? o.get("sig") : key == null ? null : Keys.signature(key);
        roots = Files.certificates(o.need("root"));
        version = Integer.parseInt(o.get("pvno", "2"));
    }

    static byte[] random(int n) {
        byte[] b = new byte[n];
        RANDOM.nextBytes(b);
        return b;
    }

    boolean signs() {
        return secret == null;
    }

    /** Whom the messages are from: a directory name, empty for who has but a reference. */
    GeneralName sender() {
        return new GeneralName(signs() ? certificate.getSubject() : new X500Name(new RDN[0]));
    }

    PKMACBuilder passwordMAC() throws Exception {
        AlgorithmIdentifier hash = new AlgorithmIdentifier(NISTObjectIdentifiers.id_sha256);
        AlgorithmIdentifier hmac = new AlgorithmIdentifier(PKCSObjectIdentifiers.id_hmacWithSHA256);
        return new PKMACBuilder(new JcePKMACValuesCalculator().setProvider("BC")).setParameters(new PBMParameter(random(16), hash, 1000, hmac));
    }

    private MacCalculator calculator() throws Exception {
        switch (mac) {
            case "pbmac1":
                return new Pbmac1(secret);
            case "pbmac1-bc":
                return new JcePBMac1CalculatorBuilder("HmacSHA256", 256).setProvider("BC").setPrf(JcePBMac1CalculatorBuilder.PRF_SHA256)
                    .setSalt(random(16)).setIterationCount(2048).build(secret);
            default:
                return passwordMAC().build(secret);
        }
    }

    /** The next message of the transaction. */
    PKIMessage message(PKIBody body) throws Exception {
        nonce = random(16);
        return message(body, transaction, nonce, peer);
    }

    PKIMessage message(PKIBody body, byte[] transaction, byte[] nonce, byte[] peer) throws Exception {
        GeneralName anybody = new GeneralName(new X500Name(new RDN[0]));
        ProtectedPKIMessageBuilder b = new ProtectedPKIMessageBuilder(version, sender(), anybody)
            .setTransactionID(transaction).setSenderNonce(nonce).setMessageTime(new Date()).setBody(body);
        if (peer != null) {
            b.setRecipNonce(peer);
        }
        for (InfoTypeAndValue i : info) {
            b.addGeneralInfo(i);
        }
        if (!signs()) {
            return b.setSenderKID(reference.getBytes(StandardCharsets.UTF_8)).build(calculator()).toASN1Structure();
        }
        SubjectKeyIdentifier id = SubjectKeyIdentifier.fromExtensions(certificate.getExtensions());
        if (id != null) {
            b.setSenderKID(id.getKeyIdentifier());
        }
        return b.addCMPCertificate(certificate).build(new JcaContentSignerBuilder(signature).setProvider("BC").build(key)).toASN1Structure();
    }

    /** Sends a body and returns that of the answer, verified. */
    PKIBody exchange(PKIBody body) throws Exception {
        return take(post(message(body)));
    }

    PKIMessage post(PKIMessage m) throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).header("Content-Type", "application/pkixcmp")
            .POST(HttpRequest.BodyPublishers.ofByteArray(m.getEncoded("DER"))).build();
        HttpResponse<byte[]> answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofByteArray());
        String type = answer.headers().firstValue("Content-Type").orElse("");
        Say.must(answer.statusCode() == 200 && type.equals("application/pkixcmp"), "HTTP " + answer.statusCode() + ", " + type);
        PKIMessage parsed = new GeneralPKIMessage(answer.body()).toASN1Structure();
        Say.must(Arrays.equals(parsed.getEncoded("DER"), answer.body()), "the answer is not DER");
        return parsed;
    }

    /** Verifies an answer to the last message, and takes note of it. */
    PKIBody take(PKIMessage m) throws Exception {
        PKIHeader h = m.getHeader();
        Say.must(h.getPvno().intValueExact() == version, "pvno is " + h.getPvno());
        Say.must(h.getTransactionID() != null && Arrays.equals(h.getTransactionID().getOctets(), transaction), "another transactionID");
        Say.must(h.getRecipNonce() != null && Arrays.equals(h.getRecipNonce().getOctets(), nonce), "recipNonce is not our senderNonce");
        Say.must(h.getSenderNonce() != null && h.getSenderNonce().getOctets().length >= 16, "senderNonce is missing or short");
        verify(m);
        peer = h.getSenderNonce().getOctets();
        return m.getBody();
    }

    private void verify(PKIMessage m) throws Exception {
        ProtectedPKIMessage p = new ProtectedPKIMessage(new GeneralPKIMessage(m));
        AlgorithmIdentifier alg = p.getProtectionAlgorithm();
        received = new ArrayList<>(Arrays.asList(p.getCertificates()));
        PBEMacCalculatorProvider macs = null;
        if (alg.getAlgorithm().equals(CMPObjectIdentifiers.passwordBasedMac)) {
            macs = new PKMACBuilder(new JcePKMACValuesCalculator().setProvider("BC"));
            Say.it("protection", "PBM");
        } else if (alg.getAlgorithm().equals(PKCSObjectIdentifiers.id_PBMAC1)) {
            macs = new JcePBMac1CalculatorProviderBuilder().setProvider("BC").build();
            Say.it("protection", "PBMAC1");
        }
        if (macs != null) {
            Say.must(secret != null, "a MAC in the answer to a signature");
            MacCalculator c = macs.get(alg, secret);
            c.getOutputStream().write(protectedPart(m));
            c.getOutputStream().close();
            Say.must(Arrays.equals(c.getMac(), m.getProtection().getOctets()), "the MAC of the answer is wrong");
            Say.must(Arrays.equals(m.getHeader().getSenderKID().getOctets(), reference.getBytes(StandardCharsets.UTF_8)), "senderKID is not the reference");
            return;
        }
        Say.must(received.size() > 0, "a signed answer without extraCerts");
        X509CertificateHolder signer = received.get(0);
        Say.must(p.verify(new JcaContentVerifierProviderBuilder().setProvider("BC").build(signer)), "the signature of the answer is wrong");
        Say.must(m.getHeader().getSender().getName().equals(signer.getSubject()), "the sender is not the signer");
        Files.chain(signer, received, roots);
        Say.it("protection", "signature");
        Say.it("answers", signer.getSubject());
    }

    /** RFC 9810 section 5.1.3: SEQUENCE {header, body}. */
    private static byte[] protectedPart(PKIMessage m) throws IOException {
        return new DERSequence(new ASN1Encodable[] {m.getHeader(), m.getBody()}).getEncoded("DER");
    }

    void ask(ASN1ObjectIdentifier oid, ASN1Encodable value) {
        info.add(new InfoTypeAndValue(oid, value));
    }
}
